package enforce

import "github.com/sikkerapi/sikkerguard/internal/status"

// lookAround makes conditions of what about this host keeps the list from covering all that an
// operator may expect. Neither is a reason not to start.
func (e *Enforcer) lookAround() {
	contained, bridged := e.o.Host.Surroundings()
	e.setCondition(status.CondNamespace, contained)
	e.setCondition(status.CondBridged, bridged)
}
