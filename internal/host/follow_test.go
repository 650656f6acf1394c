package host

import "testing"

// TestNewestServer checks which nameserver is asked instead of one that Go's resolver read from an
// older resolv.conf.
func TestNewestServer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		named []string // nil: the files were not read yet
		asked string
		want  []string // of successive attempts
	}{
		{"OK before the first reading", nil, "192.0.2.9:53", []string{"192.0.2.9:53"}},
		{"OK still named", []string{"192.0.2.1", "192.0.2.9"}, "192.0.2.9:53", []string{"192.0.2.9:53"}},
		{"OK named as IPv4-mapped", []string{"192.0.2.9"}, "[::ffff:192.0.2.9]:53", []string{"[::ffff:192.0.2.9]:53"}},
		{
			"OK others in turn",
			[]string{"192.0.2.1", "2001:db8::1"},
			"192.0.2.9:53",
			[]string{"[2001:db8::1]:53", "192.0.2.1:53", "[2001:db8::1]:53"},
		},
		{
			"OK no link-local address, whose zone is not stored",
			[]string{"fe80::53", "192.0.2.1"},
			"192.0.2.9:53",
			[]string{"192.0.2.1:53", "192.0.2.1:53"},
		},
		{"OK only a link-local address", []string{"fe80::53"}, "[fe80::53%eth0]:53", []string{"[fe80::53%eth0]:53"}},
		{"OK none named", []string{}, "127.0.0.1:53", []string{"127.0.0.1:53"}},
		{"bad address", []string{"192.0.2.1"}, "name:53", []string{"name:53"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := New(Options{Root: t.TempDir(), Proxy: noProxy})
			if tt.named != nil {
				h.conf = &conf{named: addrs(tt.named...)}
			}
			for i, want := range tt.want {
				if got := h.newestServer(tt.asked); got != want {
					t.Errorf("attempt %d: got %s, want %s", i, got, want)
				}
			}
		})
	}
}
