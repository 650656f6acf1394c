package enforce

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestContainedIsTold: an agent in a container's network warns of it once, with what to do, and
// ends that when the network is no longer a container's. The state stays: it never refuses to
// protect the container.
func TestContainedIsTold(t *testing.T) {
	t.Parallel()
	container, outside := nettest.New(t), nettest.New(t)
	nettest.Link(container, outside, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, nil)
	root := t.TempDir()
	for path, target := range map[string]string{"proc/self/ns/net": "net:[1]", "proc/self/ns/pid": "pid:[1]", ".dockerenv": "/dev/null"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	a, logs := logged(t)
	a.o.Host = host.New(host.Options{Root: root})
	a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
	for range 2 {
		container.Do(a.publishSurroundings)
	}
	s := a.o.Board.Latest()
	if !s.Holds(status.CondNamespace) || s.Holds(status.CondBridged) || s.State != status.StateActive || s.Reason != "" {
		t.Errorf("in a container's network: %s %q, %+v", s.State, s.Reason, s.Conditions)
	}
	if told := logs.FilterMessage(status.Message(status.CondNamespace)).TakeAll(); len(told) != 1 || told[0].ContextMap()["remedy"] != s.Conditions[0].Remedy {
		t.Errorf("it was told as %+v", told)
	}
	container.Run("ip", "link", "add", "docker0", "type", "bridge") // it is an engine's host
	container.Do(a.publishSurroundings)
	if s := a.o.Board.Latest(); s.Holds(status.CondNamespace) || logs.FilterMessage("The network of the machine is protected").Len() != 1 {
		t.Errorf("on an engine's host: %+v", s.Conditions)
	}
}
