package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// sources is the number of sources that packets come from. A server on the Internet sees about as
// many listed sources in some hours.
const sources = 1000

// InBatches is the variant in which the driver passes packets up in batches of 64.
const InBatches = "batches of 64"

// closers are closed in the reverse order.
type closers []io.Closer

func (c closers) close() error {
	var errs []error
	for _, closer := range slices.Backward(c) {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// packets measures the processor time of blocked and passing packets. For each list, every
// contestant has a host of its own with the list in force, and all are measured in turn, round by
// round.
func (b *Bench) packets(ctx context.Context) error {
	for _, v6 := range []bool{false, true} {
		for _, shape := range b.Plan.PacketShapes {
			for _, n := range b.Plan.PacketSizes {
				if err := b.packetCase(ctx, lists.New(shape, v6, n, 1)); err != nil {
					return fmt.Errorf("%s list of %d, IPv6 %v: %w", shape, n, v6, err)
				}
			}
		}
	}
	return nil
}

// runner is a contestant with its list in force.
type runner struct {
	who              result.Contestant
	blocked, passing *lab.Flow
}

func (b *Bench) packetCase(ctx context.Context, l *lists.List) (err error) {
	var all closers
	defer func() { err = errors.Join(err, all.close()) }()
	var runners []runner
	for _, who := range []result.Contestant{
		result.Agent, result.AgentIPT, result.IPSet, result.NFT, result.XDP, result.Open,
	} {
		r, err := b.newRunner(ctx, who, l, &all)
		if err != nil {
			return fmt.Errorf("set up %s: %w", who, err)
		}
		runners = append(runners, r)
	}
	c := result.Case{Family: family(l), Shape: string(l.Shape), Entries: len(l.Entries)}
	for round := range b.Plan.PacketRounds {
		for i := range runners {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := b.packetRound(runners[(i+round)%len(runners)], c); err != nil {
				return err
			}
		}
	}
	for _, m := range []result.Measure{result.Blocked, result.Passing} {
		c.Measure = m
		ratio, _ := b.Result.Ratio(c, result.Agent, result.IPSet)
		b.logf("   %s, IPv%d, %s, %d: %.2f of iptables + ipset, spread %.1f%%", m, c.Family, c.Shape, c.Entries, ratio,
			100*result.Spread(b.Result.Values(c, result.Agent)))
	}
	return nil
}

// packetRound measures one contestant once.
func (b *Bench) packetRound(r runner, c result.Case) error {
	for m, flow := range map[result.Measure]*lab.Flow{result.Blocked: r.blocked, result.Passing: r.passing} {
		if flow == nil {
			continue
		}
		c.Measure = m
		for _, way := range []struct {
			variant string
			batch   int
		}{{"", lab.Single}, {InBatches, lab.Batches}} {
			if way.variant != "" && (c.Family != 4 || c.Shape != string(lists.Mixed)) {
				continue // it says the same of the other lists
			}
			cost, err := flow.Cost(b.Plan.PacketCount, way.batch)
			if err != nil {
				return err
			}
			c.Variant = way.variant
			b.add(c, r.who, cost)
		}
	}
	return nil
}

// newRunner sets a contestant up, and checks that listed sources are blocked and others pass.
func (b *Bench) newRunner(
	ctx context.Context, who result.Contestant, l *lists.List, all *closers,
) (r runner, err error) {
	s, err := b.newSite(false)
	if err != nil {
		return r, err
	}
	*all = append(*all, closeFunc(s.close))
	r.who = who
	var x *lab.XDP
	switch who {
	case result.Agent:
		err = b.startAgent(ctx, s, l, lab.Others())
	case result.AgentIPT:
		err = b.startAgent(ctx, s, l, lab.Others(), iptablesBackend)
	case result.IPSet:
		err = lab.IPSet{}.Load(ctx, s.Host, l)
	case result.NFT:
		err = lab.NFT{}.Load(ctx, s.Host, l)
	case result.XDP:
		if x, err = lab.NewXDP(l); err == nil {
			*all = append(*all, x)
		}
	default: // no firewall
	}
	if err != nil {
		return r, err
	}
	sink, err := s.NewSink()
	if err != nil {
		return r, err
	}
	*all = append(*all, sink)
	listed, unlisted := l.Listed(sources), l.Unlisted(sources)
	flow := func(kind lab.Kind, from []netip.Addr) (*lab.Flow, error) {
		f, err := s.NewFlow(kind, from, x)
		if err == nil {
			*all = append(*all, f)
		}
		return f, err
	}
	if r.passing, err = flow(lab.Datagram, unlisted); err != nil {
		return r, err
	}
	fromListed, err := flow(lab.Datagram, listed)
	if err != nil {
		return r, err
	}
	if who != result.Open {
		if r.blocked, err = flow(lab.SYN, listed); err != nil {
			return r, err
		}
	}
	return r, checkVerdicts(sink, r, fromListed)
}

// checkVerdicts fails if the contestant does not do its work. Otherwise the figures would be those
// of a firewall that does nothing.
func checkVerdicts(sink *lab.Sink, r runner, fromListed *lab.Flow) error {
	want := 0
	if r.who == result.Open {
		want = sources
	}
	if n, err := sink.Count(fromListed); err != nil || n != want {
		return errors.Join(fmt.Errorf("of %d packets from listed sources %d get through", sources, n), err)
	}
	if n, err := sink.Count(r.passing); err != nil || n != sources {
		return errors.Join(fmt.Errorf("of %d packets from other sources %d get through", sources, n), err)
	}
	return sink.Ignore()
}
