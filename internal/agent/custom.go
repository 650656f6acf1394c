package agent

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// ownList is the operator's list as it was read.
type ownList struct {
	there   bool // there is one
	verdict vet.Verdict
	err     error
}

// readCustom reads the operator's list. It touches nothing of the enforcing task's: the file may be on a disk that hangs.
func (a *Agent) readCustom() ownList {
	file, err := a.feed.Custom()
	if err == nil && file == nil {
		return ownList{}
	}
	o := ownList{there: true, err: err}
	if err == nil {
		o.verdict, err = vet.Custom(file)
		o.err = errors.Join(err, file.Close())
	}
	return o
}

// takeCustom remembers the operator's list. What is wrong with it is told, and the rest of it counts. When it could not be
// read, what it held before stays.
func (a *Agent) takeCustom(o ownList) {
	if !o.there {
		a.enforcer.own = blocklist.Blocklist{}
		return
	}
	if o.err != nil {
		a.log.Warn(fmt.Sprintf("Custom blacklist cannot be read, what it held before stays (%d entries)", a.enforcer.own.Len()),
			zap.String("file", a.cfg.CustomBlacklist), zap.Error(o.err))
		return
	}
	v := o.verdict
	for i, bad := range v.Malformed {
		if i == shown {
			a.log.Warn("Custom blacklist: more lines are left out", zap.Int("lines", v.Bad-shown))
			break
		}
		a.log.Warn("Custom blacklist: a line is left out", zap.String("file", a.cfg.CustomBlacklist), zap.Error(bad))
	}
	if v.Special > 0 {
		a.log.Warn("Custom blacklist: special-purpose addresses, such as private ones, are never blocked", zap.Int("entries", v.Special))
	}
	a.enforcer.own = v.List
}
