package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// connect makes the hosts and the link between them.
func (w *world) connect(ctx context.Context) error {
	for _, ns := range []string{w.server, w.attacker} {
		if err := w.ip(ctx, "netns add "+ns); err != nil {
			return err
		}
		w.made = append(w.made, ns)
		// Without duplicate address detection, IPv6 addresses work at once. Not every machine has
		// the sysctl program.
		const noDAD = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
		if out, err := w.on(ctx, ns, nil, "sh", "-c", noDAD).CombinedOutput(); err != nil {
			return fmt.Errorf("switch off duplicate address detection: %w: %s", err, bytes.TrimSpace(out))
		}
	}
	steps := []string{
		fmt.Sprintf("-n %s link add %s type veth peer name %s netns %s", w.server, dev, dev, w.attacker),
		fmt.Sprintf("-n %s addr add %s/24 dev %s", w.server, serverAddr(false), dev),
		fmt.Sprintf("-n %s addr add %s/64 dev %s nodad", w.server, serverAddr(true), dev),
		fmt.Sprintf("-n %s addr add 192.0.2.2/24 dev %s", w.attacker, dev),
		fmt.Sprintf("-n %s addr add 2001:db8:5e::2/64 dev %s nodad", w.attacker, dev),
	}
	for _, v := range visitors() {
		addr := netip.MustParseAddr(v.addr)
		steps = append(steps, fmt.Sprintf("-n %s addr add %s/%d dev %s%s", w.attacker, addr, addr.BitLen(), dev,
			map[bool]string{true: " nodad"}[addr.Is6()]))
	}
	for _, ns := range []string{w.server, w.attacker} {
		steps = append(steps, "-n "+ns+" link set lo up", "-n "+ns+" link set "+dev+" up")
	}
	steps = append(steps, "-n "+w.server+" route add default via 192.0.2.2",
		"-n "+w.server+" -6 route add default via 2001:db8:5e::2")
	for _, s := range steps {
		if err := w.ip(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// awaitLink waits until the attacker reaches the server over both families.
func (w *world) awaitLink(ctx context.Context) error {
	attempts := []attempt{
		{From: netip.MustParseAddrPort("192.0.2.2:0"), To: netip.AddrPortFrom(serverAddr(false), ports()[0])},
		{From: netip.MustParseAddrPort("[2001:db8:5e::2]:0"), To: netip.AddrPortFrom(serverAddr(true), ports()[0])},
	}
	for {
		results, err := w.try(ctx, attempts)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(results, func(a attempt) bool { return !a.Through }) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the link between the hosts: %w", ctx.Err())
		}
	}
}
