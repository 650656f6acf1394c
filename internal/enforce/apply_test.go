package enforce

import (
	"testing"
)

// TestCoveredBy distinguishes rules that block less from rules that block more.
func TestCoveredBy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		inner, outer []string
		want         bool
	}{
		{"OK nothing", nil, nil, true},
		{"OK less", []string{"192.0.2.1/32"}, []string{"192.0.2.1/32", "2001:db8::/64"}, true},
		{"OK a part", []string{"192.0.2.0/25", "2001:db8::1/128"}, []string{"192.0.2.0/24", "2001:db8::/64"}, true},
		{"bad more", []string{"192.0.2.1/32", "192.0.2.2/32"}, []string{"192.0.2.1/32"}, false},
		{"bad wider", []string{"192.0.2.0/24"}, []string{"192.0.2.0/25"}, false},
		{"OK after others", []string{"192.0.2.9/32"}, []string{"192.0.2.1/32", "192.0.2.4/30", "192.0.2.8/29"}, true},
		{"OK two in one", []string{"192.0.2.9/32", "192.0.2.11/32"}, []string{"192.0.2.8/29"}, true},
		{"bad between", []string{"192.0.2.2/32"}, []string{"192.0.2.1/32", "192.0.2.3/32"}, false},
		{"bad behind", []string{"192.0.2.1/32", "192.0.2.9/32"}, []string{"192.0.2.1/32"}, false},
		{"bad other family", []string{"::/64"}, []string{"0.0.0.0/1"}, false},
	} {
		if got := coveredBy(listOf(tt.inner...), listOf(tt.outer...)); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
