package enforce

import (
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// offline is the state of a pull that did not reach the API. The next pull waits out a backoff, unless the host gains something
// to reach the API by: a route, an address, a resolver.
type offline struct {
	since *host.Whitelist // the host before that pull; nil if it reached the API
}

// pulled takes the error of a pull, and the host at its beginning.
func (o *offline) pulled(err error, before host.Whitelist) {
	o.since = nil
	if unreached(err) {
		o.since = &before
	}
}

// over reports whether the host has gained something since the pull, or since over last reported true.
func (o *offline) over(now host.Whitelist) bool {
	if o.since == nil || !now.Gained(*o.since) {
		return false
	}
	o.since = &now
	return true
}

// pullIfNetwork makes a pull due for each feed whose last pull did not reach its API, if the network has come since.
func (e *Enforcer) pullIfNetwork() {
	v, ok := e.surveys.newest()
	if !ok {
		return
	}
	for _, r := range e.remotes {
		if r.busy || !r.offline.over(v.white) {
			continue
		}
		r.wait.Reset() // the waits before were for another network
		r.next.Reset(clock.LeastWait)
		e.o.Log.Info("The network has changed; the pull that failed is tried again")
		e.setNextPull(r, clock.LeastWait)
	}
}
