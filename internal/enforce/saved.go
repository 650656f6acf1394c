package enforce

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// warnOfDisk logs that something cannot be read from the state directory or written to it.
func (e *Enforcer) warnOfDisk(text string, err error) {
	if !statedir.IsUnusable(err) {
		e.log.Warn(text, zap.Error(err))
	}
}

// saveAgain has files written again that another program took from the disk. A dry run writes none, and
// a file that is not written yet will be.
func (e *Enforcer) saveAgain(lost feed.Lost) {
	if e.o.DryRun {
		return
	}
	tell := func(file string) {
		e.log.Warn("A file was removed from SIKKER_STATE_DIR or changed there; it is written again", zap.String("file", file))
	}
	if lost.List && e.pulledAt != (clock.Moment{}) && !e.saver.pending() {
		tell("blacklist")
		e.writeList()
	}
	if lost.Custom && e.own.since != (clock.Moment{}) && !e.own.saver.pending() {
		tell("custom blacklist")
		e.own.saved = nil
		e.saveOwn()
	}
	if lost.Aside && e.refused.aside != nil && !e.refusedSaver.pending() {
		tell("refused blacklist")
		e.saveRefused()
	}
	if lost.Names && !e.names.saver.pending() {
		e.names.saved = host.Names{}
		if e.names.due(e.host.Resolved(e.clock.Now().Wall)) { // else it is written once they resolve
			tell("addresses of names")
			e.saveNames()
		}
	}
}

// readDisk returns the results of read, which reads the state directory, or an error if that takes longer than most.
func readDisk[T any](most time.Duration, what string, read func() (T, error)) (T, error) {
	v, err := bounded.Call(most, read)
	if errors.Is(err, bounded.ErrHangs) {
		err = fmt.Errorf("the %s takes longer than %v: look at the disk of SIKKER_STATE_DIR", what, most)
	}
	return v, err
}

// setStatus, setCondition and remember pass on to the board.
func (e *Enforcer) setStatus(change func(*status.Status)) { e.board.Update(change) }

func (e *Enforcer) setCondition(code status.Code, err error) { e.board.SetCondition(code, err) }

func (e *Enforcer) remember(err error, field status.ErrorField) { e.board.SetError(field, err) }
