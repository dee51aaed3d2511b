package appliance

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

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
	log := slog.New(slog.DiscardHandler)
	var stores [3]*images.Store
	var given [3]peerImages
	c := consensustest.NewCluster(t, 3, func(i int, cfg *consensus.Config) {
		store, err := images.OpenStore(t.TempDir(), images.StoreOptions{Reserve: 1})
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = store
		cfg.Calls, cfg.Describe = &given[i], given[i].describe
	})
	if d := given[0].describe(); d.Images != nil {
		t.Errorf("a node that starts says that it has %+v", d)
	}
	client, base, err := c.Nodes[1].Call(c.Nodes[0].ID())
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Get(base + "/x/chunk/" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a node that starts answers %s", res.Status)
	}
	for i, n := range c.Nodes {
		given[i].open(stores[i])
		r := newReplicator(config.Config{CopyLimit: 100}, n, stores[i], log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		go func() { r.Run(ctx); done <- struct{}{} }()
		go func() {
			if err := feedReplicator(ctx, n, r); err != nil {
				t.Errorf("the feed ended with: %v", err)
			}
			done <- struct{}{}
		}()
		t.Cleanup(func() { cancel(); <-done; <-done })
	}
	imported := func(on int, name string, chunks int) string {
		t.Helper()
		_, digest, err := stores[on].Import(t.Context(), bytes.NewReader(bootable(chunks)), images.ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		consensustest.Propose[*fleet.Image](t, c.Nodes[on], fleet.PutImage{Image: fleet.Image{
			Name: name, OSType: name, Digest: digest, SizeBytes: uint64(chunks) * wire.ChunkBytes, Stored: 1000, Sector: 512}})
		return digest
	}
	whole := func(digest string, on ...int) func() bool {
		return func() bool {
			return !slices.ContainsFunc(on, func(i int) bool { return !stores[i].Holdings()[digest].Whole() })
		}
	}

	digest := imported(1, "tiny", 5)
	c.Until("every node has what was imported on one", whole(digest, 0, 1, 2))
	if err := stores[2].Verify(digest); err != nil {
		t.Error(err)
	}
	c.Until("each node knows what the others have", func() bool {
		for _, m := range c.Nodes[0].Status().Members {
			if m.Described.Images[digest] != (consensus.Hold{Have: 5, Total: 5}) || m.Described.FreeBytes == 0 {
				return false
			}
		}
		return true
	})

	// A node that is cut off keeps what it has, and catches up when it is back.
	c.Isolate(2)
	other := imported(0, "other", 3)
	consensustest.Propose[*fleet.Image](t, c.Nodes[1], fleet.DeleteImage{Name: "tiny"})
	c.Until("the others have the new image and not the old one", func() bool {
		return whole(other, 0, 1)() && len(stores[0].Manifests()) == 1 && len(stores[1].Manifests()) == 1
	})
	if !whole(digest, 2)() {
		t.Error("the node that is cut off has lost its image")
	}
	c.Net.Heal()
	c.Until("so has the one that was cut off", func() bool { return whole(other, 2)() && len(stores[2].Manifests()) == 1 })
}

// Bytes that an open task installs stay, whatever becomes of the image's name.
func TestAnImageStaysForTheTaskThatInstallsIt(t *testing.T) {
	cluster := consensustest.Node(t)
	seam := replicaSeam{cluster}
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
