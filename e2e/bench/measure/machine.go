package measure

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Machine describes this machine and the versions of the peers.
func Machine(ctx context.Context) (result.Machine, error) {
	m := result.Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Peers: map[string]string{}}
	var err error
	if m.CPU, err = field("/proc/cpuinfo", "model name"); err != nil {
		m.CPU = runtime.GOARCH // not every architecture has a name there
	}
	if m.System, err = field("/etc/os-release", "PRETTY_NAME"); err != nil {
		return m, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.Memory = int(info.Totalram * uint64(info.Unit) >> 20)
	for _, p := range []struct{ program, option string }{
		{"iptables", "--version"}, {"ipset", "--version"}, {"nft", "--version"},
	} {
		out, err := exec.CommandContext(ctx, p.program, p.option).Output()
		if err != nil {
			return m, fmt.Errorf("find the version of %s: %w", p.program, err)
		}
		m.Peers[p.program] = version(string(out))
	}
	return m, nil
}

// version returns the words of the first line of a program's answer from the version on.
func version(out string) string {
	line, _, _ := strings.Cut(out, ",")
	line, _, _ = strings.Cut(line, "\n")
	_, rest, found := strings.Cut(line, " v")
	if !found {
		return strings.TrimSpace(line)
	}
	return strings.TrimSpace(rest)
}

// field returns the value of the first line with a name in a file.
func field(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	for s := bufio.NewScanner(f); s.Scan(); {
		at := strings.IndexAny(s.Text(), ":=")
		if at > 0 && strings.TrimSpace(s.Text()[:at]) == name {
			return strings.Trim(strings.TrimSpace(s.Text()[at+1:]), `"`), nil
		}
	}
	return "", fmt.Errorf("find %s in %s", name, path)
}

// Commit returns the commit of the repository, with a + if files have changed since.
func Commit(ctx context.Context, root string) (string, error) {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "--short=12", "HEAD")
	if err != nil {
		return "", fmt.Errorf("find the commit: %w", err)
	}
	if changed, err := git("status", "--porcelain", "--untracked-files=no"); err != nil || changed != "" {
		commit += "+"
	}
	return commit, nil
}
