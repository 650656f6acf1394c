package enforce

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// warnOfDisk logs that something cannot be read from the state directory or written to it.
func (e *Enforcer) warnOfDisk(text string, err error) {
	if !statedir.IsUnusable(err) {
		e.o.Log.Warn(text, zap.Error(err))
	}
}

// lostFiles are the saved files that another program removed or changed.
type lostFiles struct {
	lists, refused []*remote
	own, names     bool
}

// CheckSaved has saved files written again that another program removed or changed. It waits for the disk, which may hang. It
// may be called by any goroutine.
func (e *Enforcer) CheckSaved() {
	lost := lostFiles{names: e.o.StateDir.NamesLost()}
	for _, r := range e.remotes {
		list, refused := r.saved.Lost()
		if list {
			lost.lists = append(lost.lists, r)
		}
		if refused {
			lost.refused = append(lost.refused, r)
		}
	}
	if own := e.o.Own; own != nil {
		lost.own, _ = own.Saved.Lost()
	}
	if len(lost.lists)+len(lost.refused) > 0 || lost.own || lost.names {
		offer(e.loop.lostC, lost)
	}
}

// saveAgain has lost files written again. A dry run writes none, and a file that is not written yet will be.
func (e *Enforcer) saveAgain(lost lostFiles) {
	if e.o.DryRun {
		return
	}
	log := func(file string) {
		e.o.Log.Warn("A file was removed from SIKKER_STATE_DIR or changed there; it is written again", zap.String("file", file))
	}
	for _, r := range lost.lists {
		if r.list.at != (clock.Moment{}) && !r.saver.pending() {
			log("blacklist")
			e.writeList(r)
		}
	}
	for _, r := range lost.refused {
		if r.refused.aside != nil && !r.refusedSaver.pending() {
			log("refused blacklist")
			e.saveRefused(r)
		}
	}
	if lost.own && e.own.since != (clock.Moment{}) && !e.own.saver.pending() {
		log("custom blacklist")
		e.own.saved = nil
		e.saveOwn()
	}
	if lost.names && !e.names.saver.pending() {
		e.names.saved = host.Names{}
		if e.names.due(e.o.Host.Resolved(e.o.Clock.Now().Wall)) { // otherwise it is written once they resolve
			log("addresses of names")
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
func (e *Enforcer) setStatus(change func(*status.Status)) { e.o.Board.Update(change) }

func (e *Enforcer) setCondition(code status.Code, err error) { e.o.Board.SetCondition(code, err) }

func (e *Enforcer) remember(err error, field status.ErrorField) { e.o.Board.SetError(field, err) }
