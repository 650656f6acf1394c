package agent

import (
	"context"
	"time"
)

// stateDirEvery is how often the state directory is checked while nothing uses it.
const stateDirEvery = time.Minute

// useStateDir is the guard of all that uses the state directory: it returns why its files must not
// be used now, nil if they may. The condition follows.
func (a *Agent) useStateDir() error {
	err := a.dir.Use()
	if err != nil || a.status.Load().holds(condStateDir) {
		a.setCondition(condStateDir, err)
	}
	return err
}

// watchStateDir checks the state directory now and then, until ctx ends. The enforcing task hears of
// a list that is gone, as when an operator or another program emptied the directory.
func (a *Agent) watchStateDir(ctx context.Context) error {
	for sleep(ctx, stateDirEvery) {
		if a.useStateDir() == nil && a.feed.Gone() { // else the condition says why
			offer(a.goneC, struct{}{})
		}
	}
	return nil
}
