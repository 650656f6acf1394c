package agent

import (
	"time"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// setStatus, setCondition and remember pass on to the board.
func (a *Agent) setStatus(change func(*status.Status)) { a.board.Update(change) }

func (a *Agent) setCondition(code status.Code, err error) { a.board.SetCondition(code, err) }

func (a *Agent) remember(err error, field status.ErrorField) { a.board.SetError(field, err) }

// fillKernel adds the figures of the kernel and of the sensor. What the counters show is kept first, so that no later answer,
// after a kill either, is less.
func (a *Agent) fillKernel(s *status.Status) {
	if a.fw == nil {
		return
	}
	i := a.fw.Info()
	s.Backend, s.Features, s.Gaps = i.Name, append(s.Features, i.Features...), append(append(s.Gaps, i.Gaps...), i.Detours...)
	if s.Verified != nil && s.Verified.Counted {
		s.Features = append(s.Features, "element counts")
	}
	totals := a.sensor.Totals() // before the counter, which has then counted every packet that was seen
	since := a.ledger.ReadSoon()
	if sum, exact, ok := a.ledger.Total(); ok {
		s.Dropped = &status.Dropped{
			Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6, Exact: exact,
		}
	}
	s.Events, s.Unattributed = events(totals, since.Packets()), a.seen.unattributed()
	a.recorder.keepNow()
}

// fillWork adds the figures of the tasks.
func (a *Agent) fillWork(s *status.Status) {
	s.Hits, s.LogDropped = a.seen.hits(), a.logDropped()
	s.Unrecorded, s.Reports = a.recorder.unrecorded(), a.recorder.queue()
	s.Quota.Pulls = status.QuotaOf(a.feed.Quota(), time.Now())
	if a.reporter != nil {
		s.Quota.Reports = status.QuotaOf(a.reporter.Quota(), time.Now())
	}
}
