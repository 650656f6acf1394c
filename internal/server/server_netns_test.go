package server_test

import (
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/server"
)

// TestWithoutIPv6 checks that a host without IPv6 loopback is served over IPv4, and that Note says
// so.
func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	s := server.New(server.Options{Port: 8080, Source: &source{}})
	listen := func() {
		t.Helper()
		var err error
		ns.Do(func() { err = s.Listen() })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if listen(); s.Note() != "" {
		t.Errorf("with IPv6: note %q, want none", s.Note())
	}
	ns.Run("ip", "-6", "addr", "del", "::1/128", "dev", "lo")
	if listen(); !strings.Contains(s.Note(), "127.0.0.1 only") {
		t.Errorf("without IPv6: note %q, want one about 127.0.0.1 only", s.Note())
	}
}
