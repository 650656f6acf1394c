package enforce

import "github.com/sikkerapi/sikkerguard/internal/status"

// Present asks the kernel whether the rules are there. It does not wait for programs that change them.
func (e *Enforcer) Present() error {
	if e.backend.fw == nil {
		return nil
	}
	return e.backend.fw.Present()
}

// lost is what the watch calls when somebody else changed the rules. It is published at once: the enforcing task, which
// puts them right, may be waiting for a probe.
func (e *Enforcer) lost(err error) {
	e.setCondition(status.CondRules, err)
	offer(e.backend.lostC, err)
}
