package lock

import (
	"os"
	"testing"
)

// TestMayBeAgent checks which holders of the name may be an agent. The kernel returns process ID 0
// for a process in another PID namespace, whose capabilities are not known.
func TestMayBeAgent(t *testing.T) {
	t.Parallel()
	const person = 1000
	for _, tt := range []struct {
		name string
		uid  uint32
		want bool
	}{
		{"OK root", 0, true},
		{"OK the user of this process", uint32(os.Geteuid()), true},
		{"OK first user of units", dynamicFirst, true},
		{"OK last user of units", dynamicLast, true},
		{"bad below the users of units", dynamicFirst - 1, false},
		{"bad above the users of units", dynamicLast + 1, false},
		{"bad person", person, os.Geteuid() == person},
	} {
		if got := mayBeAgent(0, tt.uid); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
