package measure

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// between is the time between two refreshes: the agent pulls at most once a second, and the kernel
// frees old elements meanwhile.
const between = 2 * time.Second

// changesOfNFT is the largest list in which `nft -f` changes single entries. It reads the set back
// first: 20 seconds for 20,000 entries.
const changesOfNFT = 5_000

// refresh measures how long a new list takes, and the memory of it: a list without an entry in
// common, and one with 1% other entries.
func (b *Bench) refresh(ctx context.Context) error {
	for _, n := range b.Plan.Sizes {
		if err := b.refreshCase(ctx, n); err != nil {
			return fmt.Errorf("list of %d: %w", n, err)
		}
	}
	return nil
}

func (b *Bench) refreshCase(ctx context.Context, n int) (err error) {
	var all closers
	defer func() { err = errors.Join(err, all.close()) }()
	sites := map[result.Contestant]*site{}
	for _, who := range []result.Contestant{result.Agent, result.AgentIPT, result.IPSet, result.NFT} {
		s, err := b.newSite(false)
		if err != nil {
			return err
		}
		all = append(all, closeFunc(s.close))
		sites[who] = s
	}
	now := lists.New(lists.Mixed, false, n, 1)
	err = errors.Join(b.startAgent(ctx, sites[result.Agent], now, nil),
		b.startAgent(ctx, sites[result.AgentIPT], now, nil, iptablesBackend),
		lab.IPSet{}.Load(ctx, sites[result.IPSet].Host, now), lab.NFT{}.Load(ctx, sites[result.NFT].Host, now))
	if err != nil {
		return err
	}
	c := result.Case{Family: 4, Shape: string(lists.Mixed), Entries: n}
	for round := range b.Plan.Rounds {
		other := lists.New(lists.Mixed, false, n, uint64(round)+2)
		changed := other.Change(n/100, uint64(round))
		for _, who := range []result.Contestant{result.Agent, result.AgentIPT} {
			if err := b.agentRound(ctx, sites[who], c, who, other, changed); err != nil {
				return fmt.Errorf("%s: %w", who, err)
			}
		}
		programs := []program{{result.IPSet, []string{"ipset", "restore"}, lab.IPSet{}}}
		if round < b.Plan.SlowRounds {
			programs = append(programs, program{result.NFT, []string{"nft", "-f", "-"}, lab.NFT{}})
		}
		for _, p := range programs {
			if err := b.programRound(ctx, sites[p.who], c, p, other, changed); err != nil {
				return err
			}
		}
	}
	for _, m := range []result.Measure{result.Whole, result.Changed} {
		c.Measure = m
		took, _ := b.Result.Median(c, result.Agent)
		ratio, _ := b.Result.Ratio(c, result.Agent, result.IPSet)
		b.logf("   %s, %d: %.0f ms, %.2f of ipset", m, n, took, ratio)
	}
	return nil
}

// agentRound refreshes the agent's list to one without a common entry, then to one with 1% other
// entries.
func (b *Bench) agentRound(
	ctx context.Context, s *site, c result.Case, who result.Contestant, other, changed *lists.List,
) error {
	if err := lab.ResetPeak(s.agent.PID()); err != nil {
		return err
	}
	took, _, err := s.refreshTo(ctx, other)
	if err != nil {
		return err
	}
	m, err := lab.Resident(s.agent.PID())
	if err != nil {
		return err
	}
	c.Measure = result.Whole
	b.add(c, who, ms(took))
	c.Measure = result.Peak
	b.add(c, who, mib(m.Peak))
	time.Sleep(between)
	took, apply, err := s.refreshTo(ctx, changed)
	if err != nil {
		return err
	}
	c.Measure = result.Changed
	b.add(c, who, ms(took))
	c.Measure = result.ChangedApply
	b.add(c, who, ms(apply))
	time.Sleep(between)
	return nil
}

// refreshTo publishes a list and orders a pull. It returns the time until the agent says that it is
// in force, and how much of it the kernel took.
func (s *site) refreshTo(ctx context.Context, l *lists.List) (took, apply time.Duration, err error) {
	if err := s.api.Publish(l.Text()); err != nil {
		return 0, 0, err
	}
	before, err := s.applyTime(ctx)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := s.agent.Signal(unix.SIGHUP); err != nil {
		return 0, 0, err
	}
	end, err := s.agent.Await(ctx, lab.Blocking, start)
	if err != nil {
		return 0, 0, err
	}
	after, err := s.applyTime(ctx)
	return end.Sub(start), after - before, err
}

// applyTime returns the sum of the times that changes of the rules took.
func (s *site) applyTime(ctx context.Context) (time.Duration, error) {
	text, err := s.agent.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	seconds, err := metric(text, "sikkerguard_apply_duration_seconds_sum")
	return time.Duration(seconds * float64(time.Second)), err
}

// metric returns the value of a metric without labels.
func metric(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// program is a peer that reads changes from its standard input.
type program struct {
	who  result.Contestant
	args []string
	text interface {
		SwapText(l *lists.List) string
		ChangeText(from, to *lists.List) string
	}
}

// programRound makes the same changes with a program. The time is that of the program alone: its
// input is made before, from a list that was pulled and checked before.
func (b *Bench) programRound(
	ctx context.Context, s *site, c result.Case, p program, other, changed *lists.List,
) error {
	for _, change := range []struct {
		measure result.Measure
		text    string
	}{{result.Whole, p.text.SwapText(other)}, {result.Changed, p.text.ChangeText(other, changed)}} {
		if p.who == result.NFT && change.measure == result.Changed && c.Entries > changesOfNFT {
			continue
		}
		start := time.Now()
		if _, err := s.Run(ctx, change.text, p.args[0], p.args[1:]...); err != nil {
			return err
		}
		c.Measure = change.measure
		b.add(c, p.who, ms(time.Since(start)))
		time.Sleep(between / 2)
	}
	return nil
}
