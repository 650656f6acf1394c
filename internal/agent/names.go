package agent

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

const (
	// namesRefreshed is the longest time between two writes of the addresses of names while those stay
	// the same, so that the age of the file tells when they were last seen.
	namesRefreshed = 24 * time.Hour
	// recallMost is how long a start waits for that file.
	recallMost = time.Second
)

// names keeps the addresses that the names of the API and the proxy resolve to on the disk. A start
// while DNS is dead whitelists them: without them the kept list may block the API.
type names struct {
	keeper *keeper
	kept   host.Names // on the disk, or being written
}

// due reports whether n is to be written: its addresses are others, or those on the disk are old.
func (k *names) due(n host.Names) bool {
	return len(n.Addrs) > 0 && (!n.Equal(k.kept) || n.At.Sub(k.kept.At).Abs() >= namesRefreshed)
}

// recallNames whitelists the addresses of the run before until names resolve.
func (a *Agent) recallNames() {
	text, err := readDisk(recallMost, "reading of the addresses of names", a.feed.KeptNames)
	var n host.Names
	if err == nil {
		n, err = host.ParseNames(text)
	}
	switch {
	case errors.Is(err, feed.ErrNoCopy):
	case err != nil:
		a.warnOfDisk("The kept addresses of names cannot be read: until names resolve the API may be blocked if it is listed", err)
	default:
		a.enforcer.names.kept = n
		a.host.Recall(n, a.clock.Now().Wall)
	}
}

// keepNames has the addresses of names written to the disk, if those there are others or old.
func (a *Agent) keepNames() {
	k := &a.enforcer.names
	n := a.host.Resolved(a.clock.Now().Wall)
	if a.cfg.DryRun || !k.due(n) {
		return
	}
	k.kept = n
	k.keeper.keep(func() error {
		text, err := n.Append(nil)
		if err != nil {
			return err
		}
		return a.feed.KeepNames(text)
	})
}

// takeNamesKept takes the result of a write. A failure is logged once while it lasts; the write is
// tried again.
func (a *Agent) takeNamesKept(err error) {
	k := a.enforcer.names.keeper
	failed := k.failed
	if k.done(err); err != nil && !failed {
		a.warnOfDisk("The addresses of names cannot be kept yet: a start without DNS would not have them", err)
	}
}
