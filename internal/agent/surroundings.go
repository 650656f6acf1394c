package agent

import "github.com/sikkerapi/sikkerguard/internal/status"

// lookAround makes conditions of what about this host keeps the list from covering all that an
// operator may expect. Neither is a reason not to start.
func (a *Agent) lookAround() {
	contained, bridged := a.host.Surroundings()
	a.setCondition(status.CondNamespace, contained)
	a.setCondition(status.CondBridged, bridged)
}
