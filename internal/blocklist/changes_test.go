package blocklist_test

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                   string
		old, next, gone, added []string
	}{
		{name: "OK both empty"},
		{name: "OK first list", next: []string{"5.0.0.1/32", "2001:db8::/32"}, added: []string{"5.0.0.1/32", "2001:db8::/32"}},
		{name: "OK last list", old: []string{"5.0.0.1/32", "2001:db8::/32"}, gone: []string{"5.0.0.1/32", "2001:db8::/32"}},
		{name: "OK equal", old: []string{"5.0.0.1/32", "2001:db8::/32"}, next: []string{"5.0.0.1/32", "2001:db8::/32"}},
		{
			name: "OK some of each", old: []string{"5.0.0.1/32", "6.0.0.1/32", "8.0.0.0/24", "2001:db8::1/128"},
			next: []string{"4.0.0.1/32", "6.0.0.1/32", "9.0.0.0/24", "2001:db8::2/128"},
			gone: []string{"5.0.0.1/32", "8.0.0.0/24", "2001:db8::1/128"}, added: []string{"4.0.0.1/32", "9.0.0.0/24", "2001:db8::2/128"},
		},
		{
			name: "OK wider at the same address", old: []string{"5.0.0.0/25", "5.0.1.0/24"}, next: []string{"5.0.0.0/24", "5.0.1.0/24"},
			gone: []string{"5.0.0.0/25"}, added: []string{"5.0.0.0/24"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			old, next := blocklist.New(prefixes(tt.old...)), blocklist.New(prefixes(tt.next...))
			most := len(tt.gone) + len(tt.added)
			gone, added, ok := old.Changes(next, most)
			if !ok {
				t.Errorf("more than %d changes", most)
			}
			if want := prefixes(tt.gone...); !slices.Equal(gone, want) {
				t.Errorf("gone: got %v, want %v", gone, want)
			}
			if want := prefixes(tt.added...); !slices.Equal(added, want) {
				t.Errorf("added: got %v, want %v", added, want)
			}
			if _, _, ok := old.Changes(next, most-1); ok {
				t.Errorf("no more than %d changes", most-1)
			}
		})
	}
}

// FuzzChanges checks that a list without what is gone and with what was added is the next list.
func FuzzChanges(f *testing.F) {
	f.Add([]byte("\x00\x18\x05\x00\x00\x00\x00\x20\x06\x00\x00\x09"), []byte("\x00\x19\x05\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		old, next := blocklist.New(decode(x)), blocklist.New(decode(y))
		gone, added, ok := old.Changes(next, math.MaxInt)
		if !ok {
			t.Fatal("too many changes")
		}
		have := map[netip.Prefix]bool{}
		for p := range old.All() {
			have[p] = true
		}
		for _, p := range gone {
			if !have[p] {
				t.Fatalf("%v is gone and was not there", p)
			}
			delete(have, p)
		}
		for _, p := range added {
			if have[p] {
				t.Fatalf("%v is added and was there", p)
			}
			have[p] = true
		}
		got := make([]netip.Prefix, 0, len(have))
		for p := range have {
			got = append(got, p)
		}
		if want := next; !blocklist.New(slices.Clone(got)).Equal(want) || len(got) != len(want.Prefixes()) {
			t.Fatalf("changed to %v, want %v", got, want.Prefixes())
		}
	})
}
