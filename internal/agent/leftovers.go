package agent

import (
	"context"
	"errors"
	"strings"
	"time"
)

// leftoverInterval is how often a dry run looks for rules of other runs. With iptables that takes some
// tens of milliseconds.
const leftoverInterval = 30 * time.Second

// leftovers finds the rules of other runs: of agents that were killed, or that run beside a dry run.
type leftovers struct {
	inForce func() ([]string, error) // names them
}

// find returns an error that names the rules of other runs that are in force, and why others may not
// be seen.
func (l leftovers) find() (left, unseen error) {
	names, err := l.inForce()
	if len(names) > 0 {
		left = errors.New(strings.Join(names, ", "))
	}
	return left, err
}

// lookForLeftovers makes conditions of the rules of other runs that are in force while this one is
// dry. A dry run touches them as little as anything, and must not say that nothing is blocked.
func (a *Agent) lookForLeftovers() {
	left, unseen := a.others.find()
	if left != nil {
		unseen = nil // that rules block is known
	}
	a.setCondition(condLeft, left)
	a.setCondition(condLeftUnseen, unseen)
}

// watchLeftovers looks for rules of other runs until ctx ends.
func (a *Agent) watchLeftovers(ctx context.Context) error {
	ticker := time.NewTicker(leftoverInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			a.lookForLeftovers()
		}
	}
}
