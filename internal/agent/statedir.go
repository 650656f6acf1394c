package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
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
// a list that is gone, as when an operator or another program emptied the directory.
func (a *Agent) watchStateDir(ctx context.Context) error {
	for clock.Sleep(ctx, stateDirEvery) {
		if a.useStateDir() == nil && a.feed.Gone() { // else the condition says why
			offer(a.goneC, struct{}{})
		}
	}
	return nil
}
