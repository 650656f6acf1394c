package agent

import "github.com/sikkerapi/sikkerguard/internal/status"

// look asks the kernel whether the rules are there. It waits for nobody who changes them.
func (a *Agent) look() error {
	if a.fw == nil {
		return nil
	}
	return a.fw.Present()
}

// lost is what the watch calls when somebody else changed the rules. It is published at once: the enforcing task, which
// puts them right, may be waiting for a probe.
func (a *Agent) lost(err error) {
	a.setCondition(status.CondRules, err)
	offer(a.lostC, err)
}
