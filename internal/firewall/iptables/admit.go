package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Admit adds rs.Allow to the sources that the rules of a killed agent let through. If there are no
// such rules, or after an Apply, it does nothing.
func (f *Firewall) Admit(ctx context.Context, rs ruleset.Ruleset) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied != nil {
		return nil
	}
	return f.admit(ctx, rs.Allow)
}

// Admit is Firewall.Admit for a host whose agent uses another backend.
func Admit(ctx context.Context, rs ruleset.Ruleset) error {
	if able, err := mayHaveSets(); !able {
		return err
	}
	f, err := newFirewall(strings.Split(path, ":"))
	if err != nil {
		return err
	}
	return f.admit(ctx, rs.Allow)
}

// admit adds allow to the whitelists of the existing rules, and makes the rules look them up.
func (f *Firewall) admit(ctx context.Context, allow blocklist.Blocklist) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, fam := range []family{ipv4(), ipv6()} {
		if have[fam.blocklist()].isOurs(fam.blocklist()) {
			errs = append(errs, f.admitFamily(ctx, have, newSetSpec(fam.whitelist(), fam, allow)))
		}
	}
	return errors.Join(errs...)
}

// admitFamily is admit for one family.
func (f *Firewall) admitFamily(ctx context.Context, have map[string]setInfo, allow setSpec) error {
	if allow.count == 0 {
		return nil
	}
	text := ""
	switch info, ok := have[allow.name]; {
	case !ok:
		text = empty(allow.name, allow.family)
	case !info.isOurs(allow.name):
		return nil // no rule of ours looks up another program's set
	}
	for p := range allow.elements() {
		text += fmt.Sprintf("add %s %v -exist\n", allow.name, p)
	}
	if err := f.restore(ctx, askTime, script(text)); err != nil {
		return fmt.Errorf("add to the whitelists: %w", err)
	}
	all, err := f.workingPrograms(allow.family)
	found := false
	for _, t := range all {
		ours, gerr := f.guard(ctx, t)
		if gerr != nil {
			return gerr
		}
		found = found || ours
	}
	if found {
		return nil
	}
	return err // of programs whose table may have the rules
}

// guard makes the rules of a chain that blocks look up the whitelist first. It reports whether the
// table has such a chain.
func (f *Firewall) guard(ctx context.Context, t tables) (bool, error) {
	st, err := f.readState(ctx, t)
	if err != nil || !st.chain || st.jumps == 0 || t.looksUpWhitelist(st.rules) {
		return st.chain, err
	}
	if err := f.change(ctx, t, "-I "+chain+" "+t.admission()); err != nil {
		return true, fmt.Errorf("let the whitelist through the %s rules: %w", t.name, err)
	}
	return true, nil
}
