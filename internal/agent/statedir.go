package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// stateDirEvery is how often the state directory is checked while nothing uses it.
const stateDirEvery = time.Minute

// warnOfDisk logs that something cannot be read from the state directory or written to it.
func (a *Agent) warnOfDisk(text string, err error) {
	if !statedir.IsUnusable(err) {
		a.log.Warn(text, zap.Error(err))
	}
}

// useStateDir is the guard of all that uses the state directory: it returns why its files must not
// be used now, nil if they may. The condition follows.
func (a *Agent) useStateDir() error {
	err := a.dir.Use()
	a.setCondition(status.CondStateDir, err)
	return err
}

// watchStateDir checks the state directory now and then, until ctx ends. The enforcing task hears of
// saved lists that are lost, as when an operator or another program emptied the directory.
func (a *Agent) watchStateDir(ctx context.Context) error {
	for clock.Sleep(ctx, stateDirEvery) {
		if a.useStateDir() != nil {
			continue // the condition says why
		}
		if lost := a.feed.Lost(); lost != (feed.Lost{}) {
			offer(a.lostFilesC, lost)
		}
	}
	return nil
}

// saveAgain has files written again that another program took from the disk. A dry run writes none, and
// a file that is not written yet will be.
func (a *Agent) saveAgain(lost feed.Lost) {
	if a.cfg.DryRun {
		return
	}
	e := &a.enforcer
	tell := func(file string) {
		a.log.Warn("A file was removed from SIKKER_STATE_DIR or changed there; it is written again", zap.String("file", file))
	}
	if lost.List && e.pulledAt != (clock.Moment{}) && e.keeper.next == nil {
		tell("blacklist")
		a.write()
	}
	if lost.Custom && e.own.since != (clock.Moment{}) && e.own.keeper.next == nil {
		tell("custom blacklist")
		e.own.kept = nil
		a.keepOwn()
	}
	if lost.Aside && e.refused.aside != nil && e.asideKeeper.next == nil {
		tell("refused blacklist")
		a.keepAside()
	}
	if lost.Names && e.names.keeper.next == nil {
		e.names.kept = host.Names{}
		if e.names.due(a.host.Resolved(a.clock.Now().Wall)) { // else it is written once they resolve
			tell("addresses of names")
			a.keepNames()
		}
	}
}
