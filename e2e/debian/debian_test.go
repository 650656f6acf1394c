package debian

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestRemoveSparesTheMachine checks that Remove deletes a root that an interrupted debootstrap
// left, and no file of the directories of this machine that are mounted in it, even twice.
func TestRemoveSparesTheMachine(t *testing.T) {
	t.Parallel()
	root, machine := filepath.Join(t.TempDir(), "root"), t.TempDir()
	kept := filepath.Join(machine, "null")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"dev", "dev", "proc", "etc"} {
		at := filepath.Join(root, dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir == "etc" { // debootstrap mounts nothing there
			continue
		}
		if err := unix.Mount(machine, at, "", unix.MS_BIND, ""); errors.Is(err, unix.EPERM) {
			nettest.Skip(t, "mounting needs root")
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // if Remove did not
	}
	if err := Remove(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("root is still there: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a file of the machine is gone: %v", err)
	}
	if err := Remove(root); err != nil {
		t.Errorf("remove a root that does not exist: %v", err)
	}
}
