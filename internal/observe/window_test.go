package observe

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestInexactWindow checks that the counts of a window are marked if they may be too low, that two
// such windows in a row cause one warning, and that the status has the packets without an event.
func TestInexactWindow(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		set          func(k *toyKernel)
		exact        bool
		unattributed uint64
	}{
		"OK each packet is counted by key":   {func(*toyKernel) {}, true, 0},
		"OK each packet has an event":        {func(k *toyKernel) { k.plain = true }, true, 0},
		"OK the event of a key is lost":      {func(k *toyKernel) { k.silent = true }, true, 0},
		"OK the events of packets in no key": {func(k *toyKernel) { k.size, k.alone = 1, 10 }, true, 0},
		"bad packets without an event":       {func(k *toyKernel) { k.plain, k.silent = true, true }, false, 6},
		"bad packets in no key":              {func(k *toyKernel) { k.size = 1 }, false, 2},
		"bad the keys cannot be read":        {func(k *toyKernel) { k.err = errors.New("EPERM") }, false, 0},
		"bad the counters cannot be read":    {func(k *toyKernel) { k.countersErr = errors.New("EPERM") }, false, 0},
		"bad some events are lost":           {func(k *toyKernel) { k.plain, k.lost = true, 1 }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				k := newToyKernel()
				o, logs, _ := newTestObserver(t, k)
				tt.set(k)
				for range 2 {
					for i := range 3 {
						k.drop(knock(source(i), 22), 1)
					}
					o.finish(false)
				}
				warnings := logs.FilterLevelExact(zap.WarnLevel).FilterMessageSnippet("was counted by source").Len()
				if want := map[bool]int{true: 0, false: 1}[tt.exact]; warnings != want {
					t.Errorf("%d warnings, want %d", warnings, want)
				}
				for _, l := range logs.FilterMessageSnippet("BLOCKED").All() {
					if l.ContextMap()["exact"] != tt.exact || strings.HasSuffix(l.Message, " x1") != tt.exact {
						t.Errorf("logged %q, exact %v", l.Message, l.ContextMap()["exact"])
					}
				}
				var s status.Status
				if o.Fill(&s); s.Unattributed != tt.unattributed {
					t.Errorf("unattributed: %d, want %d", s.Unattributed, tt.unattributed)
				}
				if e := s.Events; e.Dropped != k.dropped || e.Seen+e.Lost+e.Unattributed != e.Dropped {
					t.Errorf("the events do not add up: %+v", e)
				}
			})
		})
	}
}

// TestManySources checks that a window takes at most maxLines lines, and one for all other sources.
func TestManySources(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, logs, _ := newTestObserver(t, k)
		for i := range maxLines + 10 {
			k.drop(knock(source(i), 22), 1)
		}
		o.Finish()
		all := logs.All()
		const want = "BLOCKED 10 more sources and ports x10"
		if len(all) != maxLines+1 || all[maxLines].Message != want {
			t.Errorf("%d lines, the last %q; want %d and %q", len(all), all[len(all)-1].Message, maxLines+1, want)
		}
	})
}
