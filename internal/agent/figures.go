package agent

import (
	"time"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// setStatus, setCondition and remember pass on to the board.
func (a *Agent) setStatus(change func(*status.Status)) { a.board.Update(change) }

func (a *Agent) setCondition(code status.Code, err error) { a.board.SetCondition(code, err) }

func (a *Agent) remember(err error, field status.ErrorField) { a.board.SetError(field, err) }

// fill adds the figures that are read at the moment of a question. The events are read before the sums, and the sums before
// the recorder has them saved.
func (a *Agent) fill(s *status.Status) {
	s.Hits, s.LogDropped = map[string]uint64{}, a.logDropped()
	s.Quota.Pulls = status.QuotaOf(a.feed.Quota(), time.Now())
	if a.fw == nil {
		return
	}
	i := a.fw.Info()
	s.Backend, s.Features, s.Gaps = i.Name, append(s.Features, i.Features...), append(append(s.Gaps, i.Gaps...), i.Detours...)
	if s.Verified != nil && s.Verified.Counted {
		s.Features = append(s.Features, "element counts")
	}
	a.observer.Fill(s)
	if sum, exact, ok := a.ledger.Total(); ok {
		s.Dropped = &status.Dropped{
			Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6, Exact: exact,
		}
	}
	a.recorder.Fill(s)
	if a.courier != nil {
		a.courier.Fill(s)
	}
}
