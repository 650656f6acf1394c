package iptables

import (
	"context"
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

// admit adds allow to the existing whitelists. A rule that looks up a whitelist prevents its
// destruction.
func (f *Firewall) admit(ctx context.Context, allow blocklist.Blocklist) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	var text []byte
	for _, fam := range []family{ipv4(), ipv6()} {
		set := fam.whitelist()
		if info, ok := have[set]; !ok || !info.isOurs(set) {
			continue
		}
		for _, p := range newSetSpec(set, fam, prefixesOf(fam, allow)).elements {
			text = fmt.Appendf(text, "add %s %v -exist\n", set, p)
		}
	}
	if len(text) == 0 {
		return nil
	}
	if err := f.restore(ctx, askTime, text); err != nil {
		return fmt.Errorf("add to the whitelists: %w", err)
	}
	return nil
}
