package agent

// takeAway removes the rules. They are disarmed first, so that the last reading of their counters is final. If they cannot be
// disarmed they are removed nevertheless, and the packets that they drop meanwhile are not counted.
func (a *Agent) takeAway() error {
	err := a.fw.Disarm()
	if _, counted := a.ledger.Read(); err != nil || counted != nil {
		a.ledger.MarkInexact()
	}
	if err := a.fw.Remove(); err != nil {
		return err
	}
	a.ledger.Reset()
	return nil
}
