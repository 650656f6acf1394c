package agent

import (
	"context"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// stateDirEvery is how often the state directory is checked while nothing uses it.
const stateDirEvery = time.Minute

// useStateDir is the guard of all that uses the state directory: it returns why its files must not
// be used now, nil if they may. The condition follows.
func (a *Agent) useStateDir() error {
	err := a.dir.Use()
	a.board.SetCondition(status.CondStateDir, err)
	return err
}

// watchStateDir checks the state directory now and then, until ctx ends. The enforcing task hears of
// saved lists that are lost, as when an operator or another program emptied the directory.
func (a *Agent) watchStateDir(ctx context.Context) error {
	for clock.Sleep(ctx, stateDirEvery) {
		if a.useStateDir() == nil { // else the condition says why
			a.enforcer.CheckSaved()
		}
	}
	return nil
}
