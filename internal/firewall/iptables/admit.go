package iptables

import (
	"context"
	"fmt"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Admit lets the sources of rs.Allow through the rules that a killed agent left, beside those that they let
// through. It does nothing if there are none, or once a list was applied.
func (s *Firewall) Admit(ctx context.Context, rs ruleset.Ruleset) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied != nil {
		return nil
	}
	return s.admit(ctx, rs.Allow)
}

// Admit is Firewall.Admit for a host whose agent uses another backend.
func Admit(ctx context.Context, rs ruleset.Ruleset) error {
	if able, err := mayHaveSets(); !able {
		return err
	}
	s, err := newFirewall(strings.Split(path, ":"))
	if err != nil {
		return err
	}
	return s.admit(ctx, rs.Allow)
}

// admit adds allow to the whitelists that are there. Rules that look one up keep it from being
// destroyed.
func (s *Firewall) admit(ctx context.Context, allow blocklist.Blocklist) error {
	have, err := s.sets(ctx)
	if err != nil {
		return err
	}
	var text []byte
	for _, f := range []family{ipv4(), ipv6()} {
		set := f.whitelist()
		if info, ok := have[set]; !ok || !info.own(set) {
			continue
		}
		for _, p := range newFill(set, f, of(f, allow)).elements {
			text = fmt.Appendf(text, "add %s %v -exist\n", set, p)
		}
	}
	if len(text) == 0 {
		return nil
	}
	if err := s.restore(ctx, askTime, text); err != nil {
		return fmt.Errorf("add to the whitelists: %w", err)
	}
	return nil
}
