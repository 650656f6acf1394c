package enforce

// takeAway removes the rules. They are disarmed first, so that the last reading of their counters is final. If they cannot be
// disarmed they are removed nevertheless, and the packets that they drop meanwhile are not counted.
func (e *Enforcer) takeAway() error {
	err := e.backend.fw.Disarm()
	if _, counted := e.backend.ledger.Read(); err != nil || counted != nil {
		e.backend.ledger.MarkInexact()
	}
	if err := e.backend.fw.Remove(); err != nil {
		return err
	}
	e.backend.ledger.Reset()
	return nil
}
