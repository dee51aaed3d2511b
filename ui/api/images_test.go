package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

const octets = "application/octet-stream"

func TestUploadedImageCanBeChosen(t *testing.T) {
	node := apitest.NewNode()
	cfg := node.Config()
	var told []api.ImportProgress
	cfg.OnImport = func(p api.ImportProgress) { told = append(told, p) }
	s, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Larger than any JSON body may be.
	image := "disk" + strings.Repeat("x", 3<<20)
	sum := sha256.Sum256([]byte(image))
	v := answer(t, s, "POST", "/api/v1/images?name=debian-12&sha256="+hex.EncodeToString(sum[:]), image, 201, "Content-Type", octets)
	if v["name"] != "debian-12" || v["os_type"] != "debian" || v["os_version"] != "12" || v["size_bytes"] != float64(len(image)) || v["source"] != "upload" {
		t.Errorf("the image is %v", v)
	}
	if last := told[len(told)-1]; !last.Done || last.BytesRead != uint64(len(image)) || last.Error != "" {
		t.Errorf("the import ended as %+v", last)
	}
	// The same name with other bytes takes its place, and the old bytes go.
	answer(t, s, "POST", "/api/v1/images?name=debian-12", "disk2", 201, "Content-Type", octets)
	if node.Images.Stored() != 1 {
		t.Errorf("%d images are stored, want 1", node.Images.Stored())
	}
	answer(t, s, "DELETE", "/api/v1/images/debian-12", "", 204)
	if node.Images.Stored() != 0 {
		t.Errorf("a deleted image is stored still")
	}
}

func TestRefusedImagesLeaveNothing(t *testing.T) {
	node, s := newGallery(t)
	before := len(s.Picture().Images)
	for _, c := range []struct {
		name, query, kind, body string
		status                  int
	}{
		{"a name out of the store", "?name=..%2Fetc", octets, "disk", 400},
		{"no name", "", octets, "disk", 400},
		{"a name no task can ask for", "?name=x&os_type=debian&os_version=12", octets, "disk", 400},
		{"no disk image", "?name=x", octets, "#!/bin/sh", 400},
		{"other bytes than said", "?name=x&sha256=" + strings.Repeat("a", 64), octets, "disk", 400},
		{"a sum that is none", "?name=x&sha256=abc", octets, "disk", 400},
		{"a form", "?name=x", "multipart/form-data; boundary=x", "disk", 415},
		{"an order without URL", "", "application/json", `{"name":"x"}`, 400},
		{"an order for a file", "", "application/json", `{"name":"x","url":"file:///etc/shadow"}`, 400},
		{"an order with other words", "", "application/json", `{"name":"x","url":"http://h/x","colour":"red"}`, 400},
		{"a URL nobody answers at", "", "application/json", `{"name":"x","url":"https://h/x"}`, 400},
		{"plain http without a sum", "", "application/json", `{"name":"x","url":"http://h/x"}`, 400},
	} {
		w := call(s, "POST", "/api/v1/images"+c.query, c.body, "Content-Type", c.kind)
		if w.Code != c.status {
			t.Errorf("%s answered %d, want %d: %s", c.name, w.Code, c.status, w.Body)
		}
	}
	if node.Images.Stored() != 0 || len(s.Picture().Images) != before {
		t.Errorf("refused images left %d stored and %d known", node.Images.Stored(), len(s.Picture().Images)-before)
	}
}

// TestNameIsCheckedBeforeTheImageIsRead: nobody waits for gigabytes to hear of a typo.
func TestNameIsCheckedBeforeTheImageIsRead(t *testing.T) {
	_, s := newGallery(t)
	body := &counting{err: errors.New("the body was read")}
	r := httptest.NewRequest("POST", "/api/v1/images?name=Not+A+Name", body)
	r.Header.Set("Content-Type", octets)
	w := httptest.NewRecorder()
	apitest.SignedIn(s).ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || body.reads != 0 {
		t.Errorf("answered %d after %d reads", w.Code, body.reads)
	}
}

type counting struct {
	reads int
	err   error
}

func (c *counting) Read([]byte) (int, error) { c.reads++; return 0, c.err }

// TestCutUploadLeavesNothing: the connection breaks half-way.
func TestCutUploadLeavesNothing(t *testing.T) {
	node, s := newGallery(t)
	r := httptest.NewRequest("POST", "/api/v1/images?name=cut", io.MultiReader(strings.NewReader("disk"), &counting{err: io.ErrUnexpectedEOF}))
	r.Header.Set("Content-Type", octets)
	w := httptest.NewRecorder()
	apitest.SignedIn(s).ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || node.Images.Stored() != 0 {
		t.Errorf("answered %d, %d images stored", w.Code, node.Images.Stored())
	}
	node.Cluster.View(func(st *fleet.State) {
		if st.Image("cut") != nil {
			t.Error("the image is known")
		}
	})
}

// slow are images that take so long that something happens meanwhile.
type slow struct {
	*apitest.Images
	meanwhile func()
}

func (s slow) Import(ctx context.Context, r io.Reader, o api.ImportOptions) (api.ImportedImage, error) {
	img, err := s.Images.Import(ctx, r, o)
	s.meanwhile()
	return img, err
}

func (s slow) Fetch(ctx context.Context, _ string, o api.ImportOptions) (api.ImportedImage, error) {
	return s.Import(ctx, strings.NewReader("disk"), o)
}

// Who is not let in any more when an image has come puts none in place.
func TestWhoIsSentAwayDuringAnUploadPutsNoImage(t *testing.T) {
	disable := func(yes bool) fleet.Body { return fleet.ChangeUser{ID: "u-bob", Disabled: &yes} }
	for name, ask := range map[string]func(p *people, who string) *httptest.ResponseRecorder{
		"an upload": func(p *people, who string) *httptest.ResponseRecorder {
			return p.ask(who, "POST", "/api/v1/images?name=evil", "disk", "Content-Type", octets)
		},
		"a fetch": func(p *people, who string) *httptest.ResponseRecorder {
			return p.ask(who, "POST", "/api/v1/images", `{"name":"evil","url":"https://h/x"}`)
		},
	} {
		for _, byToken := range []bool{false, true} {
			p := newPeople(t)
			who := "bob"
			if byToken {
				who = p.token("bobs", "u-bob", fleet.Admin)
			}
			cfg := p.node.Config()
			meanwhile := func() {}
			cfg.Images = slow{p.node.Images, func() { meanwhile() }}
			var err error
			if p.s, err = api.New(cfg); err != nil {
				t.Fatal(err)
			}
			meanwhile = func() { p.must(disable(true)) }
			if w := ask(p, who); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "was not kept") {
				t.Errorf("%s (token %v) was answered %d: %s", name, byToken, w.Code, w.Body)
			}
			p.node.Cluster.View(func(st *fleet.State) {
				if st.Image("evil") != nil || p.node.Images.Stored() != 0 {
					t.Errorf("%s (token %v) left an image, %d stored", name, byToken, p.node.Images.Stored())
				}
			})
			meanwhile = func() {}
			if w := ask(p, "ann"); w.Code != http.StatusCreated {
				t.Errorf("%s of another was answered %d: %s", name, w.Code, w.Body)
			}
		}
	}
}
