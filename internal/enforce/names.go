package enforce

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// namesRefreshed is the longest time between two writes of the resolved addresses. Unchanged
// addresses are written that often so that the age of the file shows when they were last resolved.
const namesRefreshed = 24 * time.Hour

// names saves the addresses of the API and the proxy to the disk. A start without DNS allowlists
// them. Without them, a saved list may block the API.
type names struct {
	saver *saver
	saved host.Names // on the disk, or being written
}

// due reports whether n must be written: its addresses differ from the saved ones, or those are
// old.
func (k *names) due(n host.Names) bool {
	return len(n.Addrs) > 0 && (!n.Equal(k.saved) || n.At.Sub(k.saved.At).Abs() >= namesRefreshed)
}

// restoreNames allowlists the saved addresses until names resolve. It reports whether there are any,
// which the next survey contains.
func (e *Enforcer) restoreNames(read func() ([]byte, error)) bool {
	text, err := read()
	var n host.Names
	if err == nil {
		n, err = host.ParseNames(text)
	}
	switch {
	case errors.Is(err, feed.ErrNoCopy):
	case err != nil:
		e.logDiskFailure("The saved addresses of names cannot be read; "+
			"until names resolve, the API may be blocked if it is listed", err)
	default:
		e.names.saved = n
		e.o.Host.Recall(n, e.o.Clock.Now().Wall)
		return true
	}
	return false
}

// saveNames has the resolved addresses written to the disk if that is due.
func (e *Enforcer) saveNames() {
	k := &e.names
	n := e.o.Host.Resolved(e.o.Clock.Now().Wall)
	if e.o.DryRun || !k.due(n) {
		return
	}
	k.saved = n
	k.saver.save(func() error {
		text, err := n.Append(nil)
		if err != nil {
			return err
		}
		return e.o.StateDir.SaveNames(text)
	})
}

// reportNames logs that the resolved addresses cannot be saved, once while that lasts.
func (e *Enforcer) reportNames(err error, changed bool) {
	if err != nil && changed {
		e.logDiskFailure("The addresses of names cannot be saved yet; a start without DNS would lack them", err)
	}
}
