//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// FIFREEZE and FITHAW (linux/fs.h).
const fiFreeze, fiThaw = 0xc0045877, 0xc0045878

// disk DIR: mounts a separate file system at DIR, which freeze can make hang. The script is skipped
// if there are no loop devices, or fails if SIKKERGUARD_REQUIRE_NETNS=1.
func cmdDisk(ts *testscript.TestScript, _ bool, args []string) {
	dir, image := ts.MkAbs(args[0]), ts.MkAbs(args[0]+".img")
	ts.Check(os.WriteFile(image, nil, 0o600))
	ts.Check(os.Truncate(image, 64<<20))
	ts.Check(os.Mkdir(dir, 0o700))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		ts.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		nettest.Skip(of(ts).tb, fmt.Sprintf("no file system of its own: mount: %v\n%s", err, out))
	}
	w := of(ts)
	ts.Defer(func() {
		_ = freeze(dir, fiThaw) // otherwise processes that wait for it could not be killed
		w.stop()
		if err := unix.Unmount(dir, 0); err != nil {
			ts.Logf("unmount %s: %v", filepath.Base(dir), err)
		}
	})
}

// freeze DIR, ! freeze DIR: from now on every process that writes to that disk waits, or no longer.
func cmdFreeze(ts *testscript.TestScript, neg bool, args []string) {
	request := uint(fiFreeze)
	if neg {
		request = fiThaw
	}
	ts.Check(freeze(ts.MkAbs(args[0]), request))
}

func freeze(dir string, request uint) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}

// written FILE REGEXP: waits until the agent has written a file with a line that matches.
func cmdWritten(ts *testscript.TestScript, _ bool, args []string) {
	path, re := ts.MkAbs(args[0]), regexp.MustCompile("(?m)"+strings.Join(args[1:], " "))
	waitFor(ts, path, func() bool {
		text, err := os.ReadFile(path)
		return err == nil && re.Match(text)
	})
}
