package host_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestSurroundings makes, with real devices, the network of a container and a bridge with a guest.
func TestSurroundings(t *testing.T) {
	t.Parallel()
	server, outside := nettest.New(t), nettest.New(t)
	root := t.TempDir() // root of a container: the engine's mark, and its own namespaces
	for path, target := range map[string]string{
		"proc/self/ns/net": "net:[1]", "proc/self/ns/pid": "pid:[1]", ".dockerenv": "/dev/null",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	h := host.New(host.Options{Root: root})
	look := func(when string, contained, bridged bool) {
		t.Helper()
		var c, b error
		server.Do(func() { c, b = h.Surroundings() })
		if errors.Is(c, host.ErrContained) != contained || errors.Is(b, host.ErrBridged) != bridged {
			t.Errorf("%s: contained %v, want %v; bridged %v, want %v", when, c, contained, b, bridged)
		}
	}
	look("loopback only", false, false)
	nettest.Link(server, outside, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, nil)
	look("a veth", true, false)
	server.Run("ip", "link", "set", "eth0", "down")
	look("a veth that is down", true, false)
	server.Run("ip", "link", "set", "eth0", "up")
	look("a veth again", true, false)
	server.Run("ip", "link", "add", "br0", "type", "bridge")
	server.Run("ip", "link", "set", "br0", "up")
	look("a bridge, as on a host with an engine", false, false)
	server.Run("ip", "link", "set", "eth0", "master", "br0")
	look("a guest on the bridge", false, false)
	server.Run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	server.Run("ip", "link", "set", "up0", "master", "br0", "up")
	look("a guest beside an uplink", false, true)
	server.Run("ip", "link", "set", "up0", "nomaster")
	look("without the uplink", false, false)
}
