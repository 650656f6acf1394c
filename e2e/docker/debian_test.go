//go:build e2e_docker

package docker

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/e2e/debian"
)

const (
	// debianRoot is Debian 13 with its engine, which later runs reuse. The dot hides it from the go
	// command.
	debianRoot = "../../bin/.debian-" + suite
	// debianDone is a file of debianRoot that has the list of installed packages once all are
	// installed.
	debianDone = ".sikkerguard-e2e"
	// debianPackages are the packages that an operator installs there to run compose.yaml, with
	// their names in trixie.
	debianPackages = "docker.io,docker-cli,docker-compose,nftables,iptables,iproute2,ca-certificates"
)

// enterDebian makes Debian 13 the root of the engine's mount namespace and runs the engine. /tmp is
// that of the machine, because it has the project and the test binary.
const enterDebian = `
root=$1 run=$2 data=$3; shift 3
mount --bind "$root" "$root" && cd "$root"
mkdir -p ".$run" old
mount --rbind /dev dev && mount --rbind /sys sys && mount --rbind /tmp tmp && mount -t proc proc proc
mount --bind "$run" ".$run" && mkdir -p "$root$data" && mount --bind "$data" "$root$data"
pivot_root . old && umount -l old
exec "$@"`

// debian13 installs Debian 13 with Docker's packages and returns its root directory.
func debian13(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(debianRoot)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := os.ReadFile(filepath.Join(root, debianDone)); err == nil && string(done) == debianPackages {
		return root
	}
	if err := debian.Remove(root); err != nil {
		t.Fatal(err)
	}
	installDebian(t, root, debianPackages)
	if err := os.WriteFile(filepath.Join(root, debianDone), []byte(debianPackages), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// installDebian installs Debian 13 with packages in root.
func installDebian(t *testing.T, root string, packages ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(interrupted, buildPatience)
	defer cancel()
	if err := debian.Install(ctx, root, suite, packages...); err != nil {
		t.Fatal(err)
	}
}

// within returns the command line that runs args where the engine runs: on this machine, or in
// Debian 13.
func (e *engine) within(args ...string) []string {
	if e.root == "" {
		return args
	}
	return append([]string{"nsenter", "--target", strconv.Itoa(e.cmd.Process.Pid), "--mount", "--root", "--wd=/"},
		args...)
}

// hasDebianPrograms logs the versions used, those of Debian 13, and checks that Compose is `docker
// compose`, as in the README.
func (w *world) hasDebianPrograms(t *testing.T) {
	t.Helper()
	if strings.Join(w.client, " ") != "docker compose" {
		t.Errorf("Compose is run as %q, and the README says docker compose", w.client)
	}
	for _, command := range []string{
		"docker version --format {{.Server.Version}}", "docker compose version --short", "nft --version",
		"iptables --version",
	} {
		args := w.within(strings.Fields(command)...)
		out, err := w.command(interrupted, patience, args[0], args[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", command, strings.TrimSpace(out))
		if strings.HasPrefix(command, "docker") &&
			!atLeast(strings.TrimSpace(out), map[bool]int{true: 2, false: 26}[strings.Contains(command, "compose")]) {
			t.Errorf("%s: %s is older than that of Debian 13", command, out)
		}
	}
}

// atLeast reports whether the first number of a version is at least major.
func atLeast(version string, major int) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	n, err := strconv.Atoi(first)
	return err == nil && n >= major
}
