//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestKeysStayOutOfGit checks that git ignores every file in which the pages have the operator
// store a key or settings.
func TestKeysStayOutOfGit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	git := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		return cmd.CombinedOutput()
	}
	raw, err := os.ReadFile("../.gitignore")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, ".gitignore"), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := git("init"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for path, ignored := range map[string]bool{
		".env": true, ".env.production": true, "compose.override.yaml": true, "sikker_api_key.txt": true,
		"sikkerguard.key":           true,
		"deploy/kubernetes/api_key": true, "blacklist.txt": true,
		".env.example": false, "compose.yaml": false, "internal/config/key.go": false, "e2e/demo/blacklist.txt": false,
	} {
		if out, err := git("check-ignore", path); (err == nil) != ignored {
			t.Errorf("%s is ignored: %v, want %v (%v %s)", path, err == nil, ignored, err, out)
		}
	}
}

// TestKeysAreForRootAlone runs the commands of the pages that write a file with the key, in a shell
// with the usual umask. No other user may read the file.
func TestKeysAreForRootAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ page, command, file string }{
		{"../README.md", "(umask 077; echo SIKKER_API_KEY=sk_your_key > .env)", ".env"},
		{"../docs/docker.md", "install -m 600 .env.example .env", ".env"},
		{"../.env.example", "install -m 600 .env.example .env", ".env"},
		{
			"../docs/kubernetes.md", "(umask 077; printf %s sk_your_key >deploy/kubernetes/api_key)",
			"deploy/kubernetes/api_key",
		},
		{"../docs/systemd.md", "(umask 077; echo sk_your_key >/etc/sikkerguard/api_key)", "etc/sikkerguard/api_key"},
		{"../docs/fleet.md", "install -m 600 /dev/null /etc/nginx/sikkerguard.keys", "etc/nginx/sikkerguard.keys"},
		{"../README.md", "install -m 600 /dev/stdin /etc/sikkerguard.key", "etc/sikkerguard.key"},
	} {
		t.Run(tt.page+" "+tt.file, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(readFile(t, tt.page), tt.command) {
				t.Fatalf("%s does not say %s", tt.page, tt.command)
			}
			dir := t.TempDir()
			for _, d := range []string{"deploy/kubernetes", "etc/sikkerguard", "etc/nginx"} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, ".env.example"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c",
				"umask 022; "+strings.ReplaceAll(tt.command, "/etc/", "etc/"))
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if info, err := os.Stat(filepath.Join(dir, tt.file)); err != nil || info.Mode() != 0o600 {
				t.Errorf("the mode of %s is not 0600: %v %v", tt.file, info.Mode(), err)
			}
		})
	}
}

// TestInstallWaitsForAnotherApt checks that install-deps tries again while another apt holds the
// lock of the package lists, and makes apt wait for that of dpkg.
func TestInstallWaitsForAnotherApt(t *testing.T) {
	t.Parallel()
	nettest.New(t) // it needs root
	dir := t.TempDir()
	for _, name := range []string{
		"bash", "env", "dirname", "id", "mktemp", "rm", "chmod", "tail", "grep", "cat", "wc",
	} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, script := range map[string]string{
		"sleep":     `echo "sleep $*" >>` + dir + `/calls`,
		"apt-cache": `exit 0`,
		"apt-get": `echo "$*" >>` + dir + `/calls
[ "$(grep -c update ` + dir + `/calls)" -ge 3 ] && exit 0
echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)" >&2
exit 100`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The script may create /usr/sbin/policy-rc.d for a moment, which must not happen on this
	// machine.
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c",
		"mount -t tmpfs none /usr/sbin && PATH="+dir+" exec ./install-deps gcc")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	const option = "-o DPkg::Lock::Timeout=300 "
	want := option + "update\nsleep 5\n" + option + "update\nsleep 5\n" + option + "update\n" + option + "install -y"
	if !strings.HasPrefix(string(calls), want) {
		t.Errorf("it called\n%s\nwant first\n%s", calls, want)
	}
}
