package enforce

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// allowlist is the allowlist as it is wanted at this moment, for readers of other tasks.
type allowlist struct {
	p atomic.Pointer[blocklist.Blocklist]

	survey   host.Whitelist // the newest one that was taken
	problems []string       // of that survey, which were logged
	lines    string         // the log lines about it
}

// Allows reports whether a source is allowlisted.
func (l *allowlist) Allows(source netip.Addr) bool {
	list := l.p.Load()
	return list != nil && list.Contains(source)
}

// set replaces the allowlist.
func (l *allowlist) set(list blocklist.Blocklist) {
	if old := l.p.Load(); old == nil || !old.Equal(list) {
		l.p.Store(&list)
	}
}

// Add takes note of replies to this host that were dropped. If one looks like a reply of a resolver, the API or the proxy, the
// host is surveyed and Run looks for listed upstreams. It may be called by any goroutine.
func (e *Enforcer) Add(w sensor.Window, now time.Time) {
	e.trials.answerers.add(w.Hits, now)
	needed := func(h sensor.Hit) bool { return h.Kind == sensor.Answer && e.o.Host.AnsweredFrom(h.Port) }
	if slices.ContainsFunc(w.Hits, needed) {
		e.surveys.doubt()
		offer(e.trials.answeredC, struct{}{})
	}
}
