package store_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// mount mounts an ext4 image and returns the mount point. The kernel commits nothing by itself for
// 900 s; only the syncs of a program reach the image.
func mount(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop,commit=900", image, dir).CombinedOutput()
	if err != nil {
		nettest.Skip(t, "no file system of its own: "+string(out))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestPowerLoss copies the disk at the moment Add returns, which is the state a loss of power would
// leave. Everything recorded is there.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		nettest.Skip(t, "a disk of the test's own needs root")
	}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		nettest.Skip(t, "mkfs.ext4: "+string(out))
	}
	dir := mount(t, image)
	s := open(t, dir)
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 1))
	root, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(root.Fd())), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	// From here on, only data that Add itself syncs reaches the disk.
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 4))
	raw, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(t.TempDir(), "left")
	if err := os.WriteFile(left, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	after := open(t, mount(t, left))
	if rows, err := after.Batch(t.Context(), 10); err != nil || len(rows) != 1 || rows[0].Packets != 5 {
		t.Errorf("after a loss of power: %+v, %v; want all 5 packets", rows, err)
	}
}

// TestPrivate checks that only the owner can read the files of the database, also if another
// program made them with another mode.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"a new one": false, "one that was open to all": true} {
		dir := t.TempDir()
		if before {
			if err := os.WriteFile(filepath.Join(dir, "sikkerguard.db"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, dir)
		if err := s.Add(t.Context(), store.Record{
			From: noon, To: noon, Hits: []store.Hit{hit("203.0.113.9", 22, "ssh", 1)}, Report: true,
		}); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) < 2 {
			t.Fatalf("%s: %v, %v", name, files, err)
		}
		for _, f := range files {
			if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s has mode %v, %v", name, f.Name(), info.Mode(), err)
			}
		}
	}
}
