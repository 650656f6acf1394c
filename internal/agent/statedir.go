package agent

import (
	"context"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// stateDirEvery is the time between two checks of the state directory while nothing uses it.
const stateDirEvery = time.Minute

// useStateDir returns why files of the state directory must not be used now; nil if they may. Every
// part that uses the directory calls it first. The condition follows.
func (a *Agent) useStateDir() error {
	err := a.dir.Use()
	a.board.SetCondition(status.CondStateDir, err)
	return err
}

// watchStateDir checks the state directory every minute, until ctx ends. The enforcer writes lost
// saved lists again, as when an operator or another program emptied the directory.
func (a *Agent) watchStateDir(ctx context.Context) error {
	for clock.Sleep(ctx, stateDirEvery) {
		if a.useStateDir() == nil { // the condition has the reason otherwise
			a.enforcer.CheckSaved()
		}
	}
	return nil
}
