package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/api/client"
)

// hostile lets a browser that is signed in at a node run ui/e2e/hostile.mjs.
func hostile(t *testing.T, h *house, met http.Handler, saw any, env string, args ...string) {
	t.Helper()
	srv := httptest.NewServer(met)
	t.Cleanup(srv.Close)
	t.Cleanup(h.Close)
	code, _, err := h.Door().NewLoginCode(t.Context(), "u-0000000000000000", "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"hostile.mjs"}, args...)...)
	cmd.Dir = "e2e"
	cmd.Env = append(os.Environ(), "LPMOS_URL="+client.LoginLink(srv.URL, code), "LPMOS_WANT="+env)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	if err := json.Unmarshal(out, saw); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	t.Logf("%s", out)
}

// What a machine says of itself is shown as it is, and nothing of it runs.
func TestS12_StoredXSSInChromium(t *testing.T) {
	needBrowser(t)
	for i, evil := range []string{`"><img src=x onerror=fetch('/api/v1/x')>`, `</script><svg onload=window.ran=1>`, `javascript:window.ran=1`} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			h := newHouse(t, func(c *Config) { c.Static = Static() })
			inv := apitest.Server()
			inv.System.UUID, inv.System.Serial, inv.System.Product, inv.System.Vendor = "4c4c4544-0035-4d10-8052-b7c04f4eaaaa", evil, evil, evil
			inv.NICs = []wire.NIC{{Name: evil, MAC: "52:54:00:66:66:66"}}
			for j := range inv.Disks {
				inv.Disks[j].Model = evil
				inv.Disks[j].Contents.OS = evil
			}
			propose(t, h.node, fleet.ReportMachine{NewID: "m-evil", BootID: "b-evil", SessionHash: "s-evil", RegionID: "dc1", MAC: "52:54:00:66:66:66", Inventory: inv})
			h.node.Sightings.Add(api.Sighting{At: h.node.Clock.Now(), MAC: "52:54:00:66:66:66", Kind: evil, Text: evil})
			h.node.Cluster.Progress("t-09", wire.Progress{Stage: wire.StageDownloading, Percentage: 44, Message: evil})
			propose(t, h.node, fleet.FinishInstall{TaskID: "t-10", SessionHash: "s-10", Generation: 1, Error: &wire.TaskError{Code: evil, Message: evil, Details: evil}})
			var saw struct {
				Violations, Errors, Dialogs, Foreign []string
				Shown                                map[string]bool
				Ran                                  bool
				Images                               int
			}
			hostile(t, h, h, &saw, evil, "machines", "#/", "#/m/m-evil", "#/m/m-10", "#/network", "#/a")
			if saw.Ran || saw.Images > 0 || len(saw.Violations)+len(saw.Errors)+len(saw.Dialogs)+len(saw.Foreign) > 0 {
				t.Errorf("it ran: %+v", saw)
			}
			for hash, shown := range saw.Shown {
				if !shown {
					t.Errorf("%s does not show it as it is", hash)
				}
			}
		})
	}
	// The page makes elements and never markup out of strings.
	for name, text := range scripts(t) {
		for _, never := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "createContextualFragment", "srcdoc"} {
			if strings.Contains(text, never) {
				t.Errorf("%s has %s", name, never)
			}
		}
	}
}

// Pages of others that the same browser has open change nothing, read nothing and
// open no socket: another port, another site, and a name that leads here.
func TestS09S10S11_HostilePagesInChromium(t *testing.T) {
	needBrowser(t)
	h := newHouse(t, func(c *Config) { c.Static = Static() })
	// A browser does not tell a page what became of what it sent, so it is counted here.
	var mu sync.Mutex
	sent := map[string]int{}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin, err := url.Parse(r.Header.Get("Origin")); err == nil && origin.Host != r.Host {
			_, err := r.Cookie(h.Door().CookieName(r))
			mu.Lock()
			sent[fmt.Sprintf("%s from %s, with the cookie: %v", r.Method, origin.Hostname(), err == nil)]++
			mu.Unlock()
		}
		h.ServeHTTP(w, r)
	})
	type page struct{ Socket, Read string }
	var saw struct {
		Port    page `json:"127.0.0.1"`
		Local   page `json:"localhost"`
		Evil    page `json:"evil.example"`
		Rebound struct{ Status, API int }
	}
	hostile(t, h, counted, &saw, "", "pages", "POST", "/api/v1/tasks/t-03/cancel")
	for name, p := range map[string]page{"another port": saw.Port, "localhost": saw.Local, "another site": saw.Evil} {
		if p.Socket != "opened nothing" || p.Read != "nothing" {
			t.Errorf("%s got %+v", name, p)
		}
	}
	t.Logf("%v", sent)
	// A page at another port is of the same site: its requests bring the cookie.
	for _, want := range []string{"POST from 127.0.0.1, with the cookie: true", "GET from 127.0.0.1, with the cookie: true", "POST from evil.example, with the cookie: false"} {
		if sent[want] == 0 {
			t.Errorf("nothing was tried: no %s", want)
		}
	}
	h.node.Cluster.View(func(s *fleet.State) {
		if got := s.Task("t-03").Status; got != wire.StatusPendingApproval {
			t.Errorf("the task is %s", got)
		}
	})
	if saw.Rebound.Status != 421 || saw.Rebound.API != 421 {
		t.Errorf("under the attacker's name the node answered %+v", saw.Rebound)
	}
}
