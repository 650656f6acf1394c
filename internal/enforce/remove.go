package enforce

// takeAway removes the rules. They are disarmed first, so that the last reading of their counters is final. If they cannot be
// disarmed they are removed nevertheless, and the packets that they drop meanwhile are not counted.
func (e *Enforcer) takeAway() error {
	err := e.fw.Disarm()
	if _, counted := e.ledger.Read(); err != nil || counted != nil {
		e.ledger.MarkInexact()
	}
	if err := e.fw.Remove(); err != nil {
		return err
	}
	e.ledger.Reset()
	return nil
}
