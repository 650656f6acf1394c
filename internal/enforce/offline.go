package enforce

import (
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// offline remembers that the last pull did not reach the API. The next pull waits out a backoff,
// unless the host gains something to reach the API by: a route, an address, a resolver.
type offline struct {
	since *host.Whitelist // the host before that pull; nil if it reached the API
}

// pulled takes the error of a pull, and the host as it was when the pull began.
func (o *offline) pulled(err error, before host.Whitelist) {
	o.since = nil
	if unreached(err) {
		o.since = &before
	}
}

// over reports whether the host has gained something since the pull, or since over reported so.
func (o *offline) over(now host.Whitelist) bool {
	if o.since == nil || !now.Gained(*o.since) {
		return false
	}
	o.since = &now
	return true
}

// pullIfNetwork makes a pull due if the last one did not reach the API and the network has come
// since.
func (e *Enforcer) pullIfNetwork(next *clock.Alarm) {
	v, ok := e.surveys.newest()
	if !ok || e.busy || !e.offline.over(v.white) {
		return
	}
	e.wait.Reset() // the waits before were for another network
	next.Reset(clock.LeastWait)
	e.log.Info("The network has changed; the pull that failed is tried again")
	e.setStatus(func(s *status.Status) { s.NextPullAt = e.clock.After(clock.LeastWait) })
}
