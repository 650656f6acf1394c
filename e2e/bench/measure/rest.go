package measure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// rest measures an agent that has nothing to do: its memory, and how often it wakes up.
func (b *Bench) rest(ctx context.Context) error {
	for _, n := range b.Plan.Sizes {
		if err := b.restCase(ctx, n); err != nil {
			return fmt.Errorf("list of %d: %w", n, err)
		}
	}
	return nil
}

func (b *Bench) restCase(ctx context.Context, n int) (err error) {
	s, err := b.newSite(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := b.startAgent(ctx, s, lists.New(lists.Mixed, false, n, 1), nil); err != nil {
		return err
	}
	// A refresh leaves more memory behind than a start.
	if _, _, err := s.refreshTo(ctx, lists.New(lists.Mixed, false, n, 2)); err != nil {
		return err
	}
	time.Sleep(b.Plan.Settle)
	c := result.Case{Family: 4, Shape: string(lists.Mixed), Entries: n}
	for range b.Plan.RestRounds {
		wakeUps, err := lab.WakeUps(s.agent.PID(), b.Plan.Rest)
		if err != nil {
			return err
		}
		c.Measure = result.WakeUps
		b.add(c, result.Agent, wakeUps)
		m, err := lab.Resident(s.agent.PID())
		if err != nil {
			return err
		}
		c.Measure = result.Resident
		b.add(c, result.Agent, mib(m.Now))
	}
	return b.owners(ctx, s, c)
}

// Owners of resident memory.
const (
	OwnerProgram = "pages of the executable"
	OwnerLive    = "Go heap in use: lists, history, buffers"
	OwnerIdle    = "Go heap free, not given back"
	OwnerRuntime = "Go runtime: stacks, tables of the heap, profiles"
)

// owners adds the resident memory by owner, from the metrics of the agent and from the kernel.
func (b *Bench) owners(ctx context.Context, s *site, c result.Case) error {
	m, err := lab.Resident(s.agent.PID())
	if err != nil {
		return err
	}
	text, err := s.agent.Get(ctx, "/metrics")
	if err != nil {
		return err
	}
	var live, sys, heap, released float64
	for name, into := range map[string]*float64{
		"alloc": &live, "sys": &heap, "released": &released,
	} {
		if *into, err = metric(text, "go_memstats_heap_"+name+"_bytes"); err != nil {
			return err
		}
	}
	if sys, err = metric(text, "go_memstats_sys_bytes"); err != nil {
		return err
	}
	c.Measure = result.Owner
	for variant, bytes := range map[string]float64{
		OwnerProgram: float64(m.File), OwnerLive: live, OwnerIdle: heap - released - live, OwnerRuntime: sys - heap,
	} {
		c.Variant = variant
		b.add(c, result.Agent, mib(int64(bytes)))
	}
	return nil
}

// start measures how long the agent takes to enforce its saved list, and until everything runs,
// with a gateway that answers and with one that does not.
func (b *Bench) start(ctx context.Context) error {
	n := b.Plan.Sizes[len(b.Plan.Sizes)-1]
	for _, gateway := range []struct {
		variant string
		silent  bool
	}{{Answering, false}, {Silent, true}} {
		c := result.Case{Family: 4, Shape: string(lists.Mixed), Entries: n, Variant: gateway.variant}
		if err := b.startCase(ctx, c, gateway.silent); err != nil {
			return fmt.Errorf("%s: %w", gateway.variant, err)
		}
	}
	return nil
}

// Variants of a start.
const (
	Answering = "gateway answers"
	Silent    = "gateway is silent"
)

func (b *Bench) startCase(ctx context.Context, c result.Case, silent bool) (err error) {
	s, err := b.newSite(silent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	l := lists.New(lists.Mixed, false, c.Entries, 1)
	if err := b.startAgent(ctx, s, l, nil); err != nil { // it saves the list
		return err
	}
	for range b.Plan.Rounds {
		if err := s.agent.Stop(); err != nil {
			return err
		}
		time.Sleep(between) // the kernel frees the elements
		start := time.Now()
		if s.agent, err = s.NewAgent(b.Agent, s.api, s.stateDir, nil); err != nil {
			return err
		}
		for m, text := range map[result.Measure]string{
			result.ToBlocking: lab.Blocking, result.ToRunning: lab.Running,
		} {
			at, err := s.agent.Await(ctx, text, start)
			if err != nil {
				return err
			}
			c.Measure = m
			b.add(c, result.Agent, ms(at.Sub(start)))
		}
		time.Sleep(between)
	}
	c.Measure = result.ToBlocking
	blocking, _ := b.Result.Median(c, result.Agent)
	c.Measure = result.ToRunning
	running, _ := b.Result.Median(c, result.Agent)
	b.logf("   %s: %.0f ms to Blocking, %.0f ms to running", c.Variant, blocking, running)
	return nil
}
