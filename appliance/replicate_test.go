package appliance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// sharedState is one of several nodes that share a state, and reach each other
// over plain HTTP.
type sharedState struct {
	*consensus.Node
	self    string
	members []consensus.Member
	urls    map[string]string
	parts   map[string]*peerImages
}

func (s *sharedState) ID() string { return s.self }

func (s *sharedState) Status() consensus.Status {
	st := consensus.Status{Node: s.self, Members: slices.Clone(s.members)}
	for i := range st.Members {
		st.Members[i].Described = s.parts[st.Members[i].ID].describe()
	}
	return st
}

func (s *sharedState) Call(id string) (*http.Client, string, error) {
	url, ok := s.urls[id]
	if !ok {
		return nil, "", errors.New("no member of the cluster")
	}
	return http.DefaultClient, url, nil
}

func (s *sharedState) Verify(context.Context) error { return nil }

// bootable is a raw disk of so many chunks.
func bootable(chunks int) []byte {
	raw := make([]byte, chunks*wire.ChunkBytes)
	for i := range chunks {
		raw[i*wire.ChunkBytes] = byte(i + 1)
	}
	raw[450] = 0x83
	binary.LittleEndian.PutUint32(raw[454:], 1)
	binary.LittleEndian.PutUint32(raw[458:], uint32(len(raw)/512-1))
	raw[510], raw[511] = 0x55, 0xaa
	return raw
}

func TestNodesShareTheImagesOfTheFleet(t *testing.T) {
	cluster := consensustest.Node(t)
	log := slog.New(slog.DiscardHandler)
	members := []consensus.Member{{ID: "a", Reachable: true}, {ID: "b", Reachable: true}, {ID: "gone", Reachable: true}}
	urls, parts := map[string]string{}, map[string]*peerImages{"a": {}, "b": {}, "gone": {}}
	stores := map[string]*images.Store{}
	for _, id := range []string{"a", "b"} {
		srv := httptest.NewServer(parts[id])
		t.Cleanup(srv.Close)
		urls[id] = srv.URL
		res, err := http.Get(srv.URL + "/x/chunk/" + strings.Repeat("0", 64))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable || parts[id].describe().Images != nil {
			t.Errorf("a node that starts answers %s", res.Status)
		}
	}
	for _, id := range []string{"a", "b"} {
		store, err := images.OpenStore(t.TempDir(), images.StoreOptions{Reserve: 1})
		if err != nil {
			t.Fatal(err)
		}
		stores[id] = store
		parts[id].open(store)
		node := &sharedState{Node: cluster, self: id, members: members, urls: urls, parts: parts}
		r := newReplicator(config.Config{CopyLimit: 100}, node, store, log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		go func() { r.Run(ctx); done <- struct{}{} }()
		go func() {
			if err := feedReplicator(ctx, node, r); err != nil {
				t.Errorf("the feed ended with: %v", err)
			}
			done <- struct{}{}
		}()
		t.Cleanup(func() { cancel(); <-done; <-done })
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		limit := time.After(30 * time.Second)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !holds() {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("not within 30 s: %s", what)
			}
		}
	}

	_, digest, err := stores["a"].Import(t.Context(), bytes.NewReader(bootable(5)), images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: digest, SizeBytes: 5 * wire.ChunkBytes, Stored: 1000, Sector: 512}}
	consensustest.Propose[*fleet.Image](t, cluster, put)
	until("b has what was imported on a", func() bool { return stores["b"].Holdings()[digest].Whole() })
	if h := parts["b"].describe(); h.Images[digest] != (consensus.Hold{Have: 5, Total: 5}) || h.FreeBytes == 0 {
		t.Errorf("b says of itself: %+v", h)
	}
	if err := stores["b"].Verify(digest); err != nil {
		t.Error(err)
	}
	consensustest.Propose[*fleet.Image](t, cluster, fleet.DeleteImage{Name: "tiny"})
	until("it is deleted everywhere", func() bool {
		return len(stores["a"].Manifests()) == 0 && len(stores["b"].Manifests()) == 0
	})
}

// Bytes that an open task installs stay, whatever becomes of the image's name.
func TestAnImageStaysForTheTaskThatInstallsIt(t *testing.T) {
	cluster := consensustest.Node(t)
	seam := replicaSeam{&sharedState{Node: cluster}}
	old, fresh := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	image := fleet.Image{Name: "tiny", OSType: "tiny", Digest: old, SizeBytes: 64 << 20, Stored: 9 << 20, Sector: 512}
	inv := apitest.Server()
	inv.NICs = []wire.NIC{{Name: "eno1", MAC: "52:54:00:00:00:01"}}
	inv.System.UUID = "4c4c4544-0035-4d10-8052-b7c04f4e0001"
	consensustest.Propose[*fleet.Image](t, cluster, fleet.PutImage{Image: image})
	consensustest.Propose[*fleet.Machine](t, cluster, fleet.ReportMachine{NewID: "m-1", RegionID: "dc1", BootID: "b", SessionHash: "s", MAC: inv.NICs[0].MAC, IP: "10.77.0.9", Inventory: inv})
	consensustest.Propose[*fleet.Task](t, cluster, fleet.CreateTask{ID: "t-1", RegionID: "dc1", TargetMAC: inv.NICs[0].MAC, PhoneToken: "p",
		Spec: fleet.Spec{OSType: "tiny", NetworkConfig: fleet.NetworkConfig{Hostname: "web-1"}}})
	var task fleet.Task
	cluster.View(func(s *fleet.State) { task = *s.Task("t-1") })
	consensustest.Propose[*fleet.Task](t, cluster, fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: task.PlanHash, By: "operator"})
	consensustest.Propose[*fleet.Task](t, cluster, fleet.StartInstall{TaskID: "t-1", Generation: task.Generation, PlanHash: task.PlanHash, SessionHash: "s"})
	image.Digest = fresh
	consensustest.Propose[*fleet.Image](t, cluster, fleet.PutImage{Image: image})

	want := []images.Want{{Digest: fresh, Name: "tiny", StoredBytes: 9 << 20}, {Digest: old, Name: "tiny"}}
	if got := seam.Wanted(); !slices.Equal(got, want) {
		t.Errorf("wanted while it installs: %+v, want %+v", got, want)
	}
	consensustest.Propose[*fleet.Task](t, cluster, fleet.FinishInstall{TaskID: "t-1", Generation: task.Generation, SessionHash: "s",
		Error: &wire.TaskError{Code: wire.CodeImageError, Message: "no"}})
	if got := seam.Wanted(); !slices.Equal(got, want[:1]) {
		t.Errorf("wanted when it has failed: %+v, want %+v", got, want[:1])
	}
}
