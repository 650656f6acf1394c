package enforce

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSources checks that an address has the names of the feeds of the active lists, and that a
// list that the kernel refused has none.
func TestSources(t *testing.T) {
	t.Parallel()
	l := newLab(t, "203.0.0.1\n203.0.0.2\n")
	want := func(addr string, names ...string) {
		t.Helper()
		if diff := cmp.Diff(names, l.a.Sources(netip.MustParseAddr(addr))); diff != "" {
			t.Errorf("sources of %s (-want +got):\n%s", addr, diff)
		}
	}
	want("203.0.0.1")
	l.want(false, true, "Blocking 2 IPs")
	path := filepath.Join(t.TempDir(), "own.txt")
	if err := os.WriteFile(path, []byte("203.0.0.2\n203.0.0.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.restart("SIKKER_CUSTOM_BLACKLIST=" + path)
	l.a.own.reader.publish(l.a.own.reader.read().ownReading)
	l.a.updateOwn()
	l.want(false, true, "Blocking 3 IPs")
	want("203.0.0.2", "sikker", "custom")
	want("203.0.0.3", "custom")
	want("203.0.0.1", "sikker")
	want("203.0.0.4")
	l.kernel.err, l.list = os.ErrPermission, "203.0.0.4\n203.0.0.5\n"
	l.want(false, false, "permission denied")
	want("203.0.0.4")
	want("203.0.0.1", "sikker")
}
