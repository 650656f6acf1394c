package agent

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStatusAtStart checks that the first status has null for times, and never for lists and maps.
func TestStatusAtStart(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	got, err := json.MarshalIndent(a.board.Status(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/status_start.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
