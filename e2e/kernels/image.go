package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/debian"
)

// release is a release of Debian: its kernel, and its own nft, iptables, ipset and iproute2.
type release struct{ kernel, suite string }

func releases() []release {
	return []release{{"5.10", "bullseye"}, {"6.1", "bookworm"}, {"6.12", "trixie"}}
}

// packages are the packages that the tests need besides a minimal Debian.
const packages = "linux-image-amd64,nftables,iproute2,iptables,ipset,kmod,procps,e2fsprogs"

// init is the first process of the machine.
//
//go:embed init.sh
var initScript []byte

// image is the files that qemu boots.
type image struct{ disk, kernel, initrd string }

// image returns the image of the release under dir, and makes it if there is none. It is never
// written again: the machine discards its changes.
func (r release) image(ctx context.Context, out io.Writer, dir string) (image, error) {
	at := func(end string) string { return filepath.Join(dir, r.suite+end) }
	img := image{disk: at(".ext4"), kernel: at(".vmlinuz"), initrd: at(".initrd")}
	recipe := recipe()
	if have, err := os.ReadFile(at(".recipe")); err == nil && bytes.Equal(have, recipe) {
		return img, nil
	}
	start := time.Now()
	_, _ = fmt.Fprintf(out, "%s: making a root of Debian %s\n", r.kernel, r.suite)
	if err := os.RemoveAll(at(".recipe")); err != nil {
		return img, err
	}
	root, err := filepath.Abs(at(".root"))
	if err != nil {
		return img, err
	}
	if err := debian.Remove(root); err != nil { // left by a killed run
		return img, err
	}
	err = errors.Join(r.bootstrap(ctx, root, img), debian.Remove(root))
	if err != nil {
		return img, err
	}
	_, _ = fmt.Fprintf(out, "%s: made in %v\n", r.kernel, time.Since(start).Round(time.Second))
	return img, os.WriteFile(at(".recipe"), recipe, 0o600) // last: it marks the image as complete
}

// recipe returns everything that determines the content of an image, without comments: a new
// wording of a comment makes no new image.
func recipe() []byte {
	comments := regexp.MustCompile(`(?m)^# .*\n`)
	return append([]byte(packages+"\n"), comments.ReplaceAll(initScript, nil)...)
}

// bootstrap makes the root and the image of it.
func (r release) bootstrap(ctx context.Context, root string, img image) error {
	if err := debian.Install(ctx, root, r.suite, packages); err != nil {
		return err
	}
	for pattern, to := range map[string]string{"vmlinuz-*": img.kernel, "initrd.img-*": img.initrd} {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("find /boot/%s: %d files, %w", pattern, len(found), err)
		}
		if err := command(ctx, "cp", found[0], to); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init.sh"), initScript, 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(img.disk); err != nil {
		return err
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, img.disk, "2G")
}

// command runs a program. The error has the end of its output.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-4000):])
	}
	return nil
}
