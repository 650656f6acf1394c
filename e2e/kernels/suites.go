package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// suite is a program that runs in each kernel: the tests of a package, or the demo.
type suite struct {
	name string
	dir  string // directory of the package, in which it runs
	run  string // tests to run, a pattern of -test.run; empty for all
	skip string // tests not to run, a pattern of -test.skip
	// without is the reason of skip. smaller lists the numbers that -test.short makes smaller. Both
	// are printed.
	without, smaller string
	reads            string        // directory of the project that the tests read, besides testdata
	quick            string        // run of a quick run, for CI; empty for run
	args             []string      // runs this instead of the tests
	limit            time.Duration // long enough for a machine with other work; only a hang takes longer
}

func suites() []suite {
	return []suite{
		{
			name: "nft", dir: "internal/firewall/nft", limit: 30 * time.Minute,
			quick: "^(TestGolden|TestCrash|TestOpenErrors|TestMismatch|TestWatch|" +
				"TestIntervalsUnderTraffic|TestNearlyFull)$",
			smaller: "TestRefreshEverySecond refreshes 10 times, not 60, " +
				"TestReplacedUnderTraffic has 5,000 networks, not 50,000",
		},
		{
			name: "iptables", dir: "internal/firewall/iptables", limit: 30 * time.Minute,
			quick: "^(TestMissing|TestLock|TestForeignSet)$",
			smaller: "TestKill kills after every eleventh change from the first one on; " +
				"its removals are tried again after 15 seconds",
		},
		{
			name: "firewall", dir: "internal/firewall", limit: 40 * time.Minute,
			quick: "^(TestBlocks|TestRefreshUnderTraffic)$/^(nftables|iptables-legacy)$",
			smaller: "TestHalfAMillion loads 50,000 entries, TestRefreshUnderTraffic a tenth of its own, " +
				"TestCrash kills 4 times, not 15; a Remove that takes longer than its 15 seconds is tried again",
			skip: "^TestRealList$", without: "the published list is not in the repository",
		},
		{name: "sensor", dir: "internal/sensor", limit: 10 * time.Minute},
		{
			name: "host", dir: "internal/host", limit: 10 * time.Minute,
			smaller: "TestWatchFullTable has 10,000 routes, not 150,000",
		},
		{name: "demo", args: []string{"bin/demo"}, limit: 10 * time.Minute},
		{
			name: "scenarios", dir: "e2e", run: "^TestScripts$", reads: "docs", limit: 40 * time.Minute,
			smaller: "crowd has 100 clients, not 1,000, " +
				"which try again if the kernel does not answer the agent in two seconds; " +
				"a script waits four times as long",
			quick: "^TestScripts$/^(main|crash|conflict|cleanup|iptables|hanging_disk)$",
			skip:  "^TestScripts$/^metrics$", without: "it needs Prometheus, which does not depend on the kernel",
		},
	}
}

// quickly returns the suites with only their quick tests.
func quickly(all []suite) []suite {
	quick := slices.Clone(all)
	for i, s := range quick {
		if s.quick != "" {
			quick[i].run = s.quick
		}
	}
	return quick
}

// binary returns the path of the test program of the suite in the project.
func (s suite) binary() string { return "bin/.kernels/tests/" + s.name + ".test" }

// command returns the shell line that runs the suite in its directory.
func (s suite) command() string {
	if s.args != nil {
		return strings.Join(s.args, " ")
	}
	line := "$project/" + s.binary() + " -test.v -test.short -test.parallel 2 -test.timeout " + s.limit.String()
	if s.run != "" {
		line += " -test.run '" + s.run + "'"
	}
	if s.skip != "" {
		line += " -test.skip '" + s.skip + "'"
	}
	return line
}

// guestScript returns a script that runs the suites in sequence. Lines that begin with @@ are for
// machine.run.
func guestScript(wanted []suite) string {
	var b strings.Builder
	b.WriteString(`project=/tmp/project
modprobe loop # its device files appear with it: no udev makes them
modprobe nf_conntrack_netlink # the agent reads connections seldom if the first time takes long, as with the loading
ln -sf /proc/self/fd/0 /dev/stdin # nor this one, which nft 0.9 opens
export SIKKERGUARD_REQUIRE_NETNS=1 SIKKERGUARD_E2E_BIN=$project/bin
echo "@@ booted $(uname -r), $(nft --version), $(iptables --version), $(ipset --version)"
`)
	for _, s := range wanted {
		dir := s.dir
		if dir == "" {
			dir = "."
		}
		fmt.Fprintf(&b, "cd $project/%s\necho '@@ begin %s'\ntimeout -k 10 %d %s\necho \"@@ end %s $?\"\n",
			dir, s.name, int(s.limit.Seconds())+10, s.command(), s.name)
	}
	return b.String()
}

// pack builds the tests and programs as static binaries and writes them with their files to an
// archive, which the machine sees as a disk.
func pack(ctx context.Context, file string, wanted []suite) error {
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	err := build("build", "-ldflags", "-X main.version=1.0.0", "-o", "bin/.kernels/tests/",
		"./cmd/sikkerguard", "./e2e/apisim/sikkerapi-sim", "./e2e/demo")
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	a := archive{tar.NewWriter(f)}
	for _, name := range []string{"sikkerguard", "sikkerapi-sim", "demo"} {
		err = errors.Join(err, a.file("bin/.kernels/tests/"+name, "bin/"+name))
	}
	err = errors.Join(err, a.file("e2e/demo/blacklist.txt", "e2e/demo/blacklist.txt"),
		a.text("guest.sh", guestScript(wanted)))
	for _, s := range wanted {
		if s.args != nil {
			continue
		}
		err = errors.Join(err, build("test", "-c", "-tags", "e2e", "-o", s.binary(), "./"+s.dir),
			a.file(s.binary(), s.binary()), a.folder(s.dir, s.dir+"/testdata"))
		if s.reads != "" {
			err = errors.Join(err, a.folder(s.reads, s.reads))
		}
	}
	return errors.Join(err, a.w.Close(), f.Close())
}

// archive is a tar file of files of the project.
type archive struct{ w *tar.Writer }

// file adds the file at path under the name.
func (a archive) file(path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()) | 0o444, Size: info.Size()}
	if err := a.w.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(a.w, f)
	return err
}

// text adds a file with this content.
func (a archive) text(name, content string) error {
	if err := a.w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := io.WriteString(a.w, content)
	return err
}

// folder adds dir, empty, and the files under files, if that exists.
func (a archive) folder(dir, files string) error {
	if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
		return err
	}
	err := filepath.WalkDir(files, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return a.file(path, filepath.ToSlash(path))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
