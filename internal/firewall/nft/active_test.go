package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHold checks which fill levels of sets are known after a batch. None of its sets is known if
// the kernel's answer was lost.
func TestHold(t *testing.T) {
	t.Parallel()
	batch := map[string]int{"filled": 7, "gone": deleted}
	for _, tt := range []struct {
		name  string
		known bool
		want  map[string]int
	}{
		{"OK taken", true, map[string]int{"filled": 7, "other": 3}},
		{"bad answer lost", false, map[string]int{"other": 3}},
	} {
		a := active{held: map[string]int{"filled": 5, "gone": 2, "other": 3}}
		a.hold(batch, tt.known)
		if diff := cmp.Diff(tt.want, a.held); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
