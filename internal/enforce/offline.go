package enforce

import (
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// offline records whether the last pull of a feed did not reach the API. The next pull waits for
// the backoff, unless the host gains a route, an address or a resolver by which it may reach the
// API.
type offline struct {
	since *host.Whitelist // the host before that pull; nil if it reached the API
}

// pulled records the error of a pull, and the host at its beginning.
func (o *offline) pulled(err error, before host.Whitelist) {
	o.since = nil
	if unreached(err) {
		o.since = &before
	}
}

// over reports whether the host has gained a way to the API since the pull, or since over last
// returned true.
func (o *offline) over(now host.Whitelist) bool {
	if o.since == nil || !now.Gained(*o.since) {
		return false
	}
	o.since = &now
	return true
}

// pullIfNetwork makes a pull due for each feed whose last pull did not reach the API, if the
// network has changed since.
func (e *Enforcer) pullIfNetwork() {
	v, ok := e.surveys.newest()
	if !ok {
		return
	}
	for _, r := range e.remotes {
		if r.busy || !r.offline.over(v.white) {
			continue
		}
		r.wait.Reset() // the earlier waits were for another network
		r.next.Reset(clock.LeastWait)
		e.o.Log.Info("The network has changed; repeating the failed pull")
		e.setNextPull(r, clock.LeastWait)
	}
}
