package agent

import (
	"context"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// fill adds the figures that are read at the moment of a question. The events are read before the sums, and the sums before
// the recorder has them saved.
func (a *Agent) fill(s *status.Status) {
	s.Hits, s.LogDropped = map[string]uint64{}, a.logDropped()
	a.enforcer.Fill(s)
	if !a.enforcer.Opened() {
		return
	}
	a.observer.Fill(s)
	if sum, exact, ok := a.enforcer.Ledger().Total(); ok {
		s.Dropped = &status.Dropped{
			Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6, Exact: exact,
		}
	}
	a.recorder.Fill(s)
	if a.courier != nil {
		a.courier.Fill(s)
	}
}

// enforce runs the Enforcer until ctx ends, again after a panic of it, which ends neither the process nor the rules.
func (a *Agent) enforce(ctx context.Context) error {
	return a.keep(ctx, task("enforcing of the list", a.enforcer.Run))
}
