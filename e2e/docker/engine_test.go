//go:build e2e_docker

package docker

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	// dataRoot has images and their layers, which later runs reuse. The dot hides the Go files in
	// it from the go command.
	dataRoot = "../../bin/.docker"
	// cgroup is the parent of the control groups of the containers.
	cgroup = "sikkerguard-e2e"
	// patience is the longest wait of a test, except for builds.
	patience = 2 * time.Minute
	// buildPatience is the longest wait for downloads and compilation on a busy machine.
	buildPatience = 15 * time.Minute
)

// engine is a Docker engine in a network namespace.
type engine struct {
	dir    string // sockets, state and log; short, because the path of a socket has at most 108 bytes
	root   string // of Debian 13; empty for this machine
	env    []string
	client []string // docker compose, or docker-compose if that is all there is
	cmd    *exec.Cmd
	doneC  chan struct{}
}

// startEngine starts an engine whose host is ns, and ends it with the test. It is that of this
// machine, or of the Debian in root.
func startEngine(t *testing.T, ns *nettest.NS, root string) *engine {
	t.Helper()
	data, err := filepath.Abs(dataRoot)
	if err != nil {
		t.Fatal(err)
	}
	if root != "" {
		data += "-" + suite
	}
	lock(t, data+".lock")
	if err := os.MkdirAll(data, 0o710); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/run", "sikkerguard-e2e-") //nolint:usetesting // the path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := "unix://" + dir + "/docker.sock"
	// Every engine has the classic builder, but not every client finds BuildKit: it is used only on
	// request.
	builder := cmp.Or(os.Getenv("DOCKER_BUILDKIT"), "0")
	e := &engine{dir: dir, root: root, doneC: make(chan struct{}), env: append(os.Environ(),
		"DOCKER_HOST="+socket, "DOCKER_CONFIG="+dir, "DOCKER_BUILDKIT="+builder, "COMPOSE_PROJECT_NAME=sikkerguard")}
	e.run(t, ns, data, "dockerd", "--host", socket, "--data-root", data, "--exec-root", dir+"/exec", "--pidfile",
		dir+"/pid",
		"--cgroup-parent", "/"+cgroup, "--log-level", "warn",
		"--ipv6", "--fixed-cidr-v6", "fd00:d0c::/64", "--experimental", "--ip6tables")
	t.Cleanup(func() { e.stop(t) })
	await(t, "the engine", func() bool {
		select {
		case <-e.doneC:
			t.Fatalf("the engine exited:\n%s", e.log(t))
		default:
		}
		_, err := e.try("version")
		return err == nil
	})
	e.clear(t)
	t.Cleanup(func() { e.clear(t) })
	e.client = []string{"docker", "compose"}
	if _, err := e.try("compose", "version"); err != nil {
		e.client = []string{"docker-compose"}
	}
	return e
}

// run starts the engine as the first process of a process namespace, with its own mounts. However
// it ends, even if this process is killed, the kernel then ends its containers and unmounts its
// mounts.
func (e *engine) run(t *testing.T, ns *nettest.NS, data string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	script := []string{"-ec", `mount -t proc proc /proc; exec "$@"`, "sh"}
	if e.root != "" {
		script = []string{"-ec", enterDebian, "sh", e.root, e.dir, data}
	}
	e.cmd = exec.Command("sh", append(script, args...)...)
	e.cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
	}
	startedC := make(chan error, 1)
	go func() {
		defer close(e.doneC)
		// Pdeathsig is sent when the thread ends, so the thread stays until the engine has exited.
		ns.Do(func() {
			err := e.cmd.Start()
			startedC <- err
			if err == nil {
				_ = e.cmd.Wait()
			}
		})
		_ = log.Close()
	}()
	if err := <-startedC; err != nil {
		t.Fatalf("start the engine: %v", err)
	}
}

// stop ends the engine and removes the control groups of its containers.
func (e *engine) stop(t *testing.T) {
	t.Helper()
	_ = e.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-e.doneC:
	case <-time.After(patience):
		t.Errorf("the engine does not exit:\n%s", e.log(t))
		_ = e.cmd.Process.Kill()
		<-e.doneC
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, _ := filepath.Glob(pattern + cgroup)
		for _, root := range groups {
			var dirs []string
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) {
				_ = os.Remove(dir)
			}
		}
	}
}

// clear removes everything but images that this run, or a killed one, left.
func (e *engine) clear(t *testing.T) {
	t.Helper()
	ids, err := e.try("ps", "-aq")
	if err == nil && strings.TrimSpace(ids) != "" {
		_, err = e.try(append([]string{"rm", "-fv"}, strings.Fields(ids)...)...)
	}
	if err == nil {
		ids, err = e.try("volume", "ls", "-q")
	}
	if err == nil && strings.TrimSpace(ids) != "" {
		_, err = e.try(append([]string{"volume", "rm", "-f"}, strings.Fields(ids)...)...)
	}
	if err != nil {
		t.Errorf("remove containers and volumes: %v", err)
	}
}

// log returns the end of the log of the engine.
func (e *engine) log(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(e.dir, "log"))
	if err != nil {
		t.Error(err)
	}
	return string(raw[max(0, len(raw)-4000):])
}

// try runs the client, also if the test was interrupted.
func (e *engine) try(args ...string) (string, error) {
	all := e.within(append([]string{"docker"}, args...)...)
	return e.command(context.WithoutCancel(interrupted), patience, all[0], all[1:]...)
}

func (e *engine) command(ctx context.Context, limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = e.env
	cmd.WaitDelay = 5 * time.Second
	return output(cmd)
}

// docker runs the client and returns its output.
func (e *engine) docker(t *testing.T, args ...string) string {
	t.Helper()
	all := e.within(append([]string{"docker"}, args...)...)
	out, err := e.command(interrupted, patience, all[0], all[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// lock holds a file locked until the end of the test, so that two runs do not share a data root.
func lock(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatalf("lock %s: another run uses it (%v)", path, err)
	}
	t.Cleanup(func() { _ = f.Close() })
}

// await waits until ok returns true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Millisecond) {
		if interrupted.Err() != nil {
			t.Fatalf("interrupted while waiting for %s", what)
		}
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}
