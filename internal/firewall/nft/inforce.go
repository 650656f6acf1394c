package nft

import "errors"

// InForce reports whether the kernel has the table with its base chain on the hook and rules in
// that chain, made by an agent that runs or by one that was killed. It changes nothing.
func InForce() (bool, error) {
	reads, err := openReader()
	if err = diagnose(err); errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = reads.Close() }() // nothing was written
	found, err := reads.findTable()
	if err = diagnose(err); errors.Is(err, ErrUnsupported) || err == nil && found == nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	have, err := reads.kernelChains()
	if err != nil {
		return false, err
	}
	base := chains(nil)[0]
	if k, ok := have[base.Name]; !ok || !k.like(base) {
		return false, nil
	}
	rules, err := reads.kernelRules()
	return len(rules[base.Name]) > 0, err
}
