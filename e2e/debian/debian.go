// Package debian installs releases of Debian into directories of this machine, for the tests that
// need another release: those on other kernels, and those on other Docker engines. Neither test
// depends on a registry of images.
package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Install installs a minimal Debian of a suite ("bookworm") with packages in root, by debootstrap.
// root must be empty or not exist. Remove deletes it, also after an error.
func Install(ctx context.Context, root, suite string, packages ...string) error {
	from, err := mirror(ctx)
	if err != nil {
		return err
	}
	args := []string{"--variant=minbase"}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	args = append(args, suite, root)
	if from != "" {
		args = append(args, from)
	}
	cmd := exec.CommandContext(ctx, "debootstrap", args...)
	cmd.WaitDelay = 5 * time.Second // its children outlive it for a moment and hold its output open
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("install Debian %s: %w\n%s", suite, err, out[max(0, len(out)-4000):])
	}
	return nil
}

// Remove deletes a root, also one that an interrupted debootstrap left. First it unmounts
// everything that debootstrap mounts: the deletion must not reach this machine's own /dev.
func Remove(root string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev/pts", "/dev"} {
		for unix.Unmount(root+dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	}
	return os.RemoveAll(root)
}

// mirror returns the address of the Debian mirror that apt uses on this machine. If apt uses none,
// it is empty, and debootstrap uses its default.
func mirror(ctx context.Context) (string, error) {
	ask := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
	out, err := ask.Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its mirror: %w", err)
	}
	for uri := range strings.FieldsSeq(string(out)) {
		if strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			return uri, nil
		}
	}
	return "", nil
}
