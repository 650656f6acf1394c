package host

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestNamesAskNewestResolver checks that the API's name is resolved at once by the nameserver that
// the files name now, and not by the one that Go's resolver read seconds ago.
func TestNamesAskNewestResolver(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		nettest.New(t).Rerun(t)
		return
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := New(Options{APIURL: &url.URL{Scheme: "https", Host: "api.example"}, Root: root, Proxy: noProxy})
	for _, server := range []string{"127.0.0.2", "127.0.0.3"} {
		pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", server+":53")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pc.Close() })
		answer := netip.MustParseAddr("203.0.113." + server[len(server)-1:])
		go answerWith(pc, answer)
		conf := filepath.Join(root, "etc/resolv.conf")
		if err := os.WriteFile(conf, []byte("nameserver "+server+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := h.discover(t.Context())
		if len(w.Problems) > 0 || !slices.Contains(w.Prefixes(), netip.PrefixFrom(answer, 32)) {
			t.Errorf("with %s: %s, %v", server, w.Kinds(), w.Problems)
		}
	}
}

// answerWith answers each query for an IPv4 address with addr.
func answerWith(pc net.PacketConn, addr netip.Addr) {
	buf := make([]byte, 2048)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			}}
		}
		if raw, err := m.Pack(); err == nil {
			_, _ = pc.WriteTo(raw, from)
		}
	}
}
