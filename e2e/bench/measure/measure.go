// Package measure measures the agent and its peers. Every function adds its figures to a result.
package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Plan is the extent of a run.
type Plan struct {
	PacketSizes  []int         // entries of the lists
	PacketShapes []lists.Shape //
	PacketRounds int           //
	PacketCount  int           // packets of a round, for each contestant and verdict
	Sizes        []int         // entries, for everything else; the largest is the large list
	Rounds       int           // of refreshes and starts
	SlowRounds   int           // of `nft -f`, which takes seconds
	Settle       time.Duration // until the agent is at rest
	Rest         time.Duration // of a count of wake-ups
	RestRounds   int           // counts of wake-ups
	Flood        time.Duration // of a flood
	FloodRate    int           // packets a second
	Decisions    int           // of cs-firewall-bouncer
	StoreRounds  int           // runs of the benchmark of the store
}

// Full returns the plan of `make bench`.
func Full() Plan {
	return Plan{
		PacketSizes:  []int{5_000, 50_000, 500_000},
		PacketShapes: []lists.Shape{lists.Mixed, lists.Addresses, lists.Odd},
		PacketRounds: 11, PacketCount: 180_000,
		Sizes: []int{5_000, 50_000, 500_000}, Rounds: 7, SlowRounds: 2,
		Settle: 15 * time.Second, Rest: 30 * time.Second, RestRounds: 2,
		Flood: 30 * time.Second, FloodRate: 200_000, Decisions: 50_000, StoreRounds: 3,
	}
}

// Quick returns the plan of `make bench-quick`.
func Quick() Plan {
	p := Full()
	p.PacketSizes, p.PacketRounds, p.PacketCount = []int{50_000}, 7, 90_000
	p.Sizes, p.Rounds, p.SlowRounds = []int{5_000, 500_000}, 3, 1
	p.Settle, p.Rest, p.RestRounds = 10*time.Second, 10*time.Second, 1
	p.Flood, p.StoreRounds = 10*time.Second, 1
	return p
}

// Tiny returns a plan that shows in a minute whether everything works. Its figures mean nothing.
func Tiny() Plan {
	p := Quick()
	p.PacketSizes, p.PacketRounds, p.PacketCount = []int{5_000}, 2, 10_000
	p.Sizes, p.Rounds = []int{5_000, 20_000}, 2
	p.Settle, p.Rest = 2*time.Second, 2*time.Second
	p.Flood, p.Decisions = 3*time.Second, 1_000
	return p
}

// Bench is a run.
type Bench struct {
	Plan   Plan
	Agent  string // path of the built agent
	Dir    string // for files of the run
	Root   string // of the repository
	Log    io.Writer
	Result *result.Result
}

// step is a part of a run.
type step struct {
	name string
	run  func(context.Context) error
}

// Run measures the parts with the given names, or all if there is none. A peer that is missing
// fails it.
func (b *Bench) Run(ctx context.Context, only []string) error {
	steps := []step{
		{"packets", b.packets},
		{"refresh", b.refresh},
		{"rest", b.rest},
		{"start", b.start},
		{"flood", b.flood},
		{"store", b.store},
		{"crowdsec", b.crowdsec},
	}
	wanted := map[string]bool{}
	for _, name := range only {
		wanted[name] = true
	}
	for _, s := range steps {
		if len(only) > 0 && !wanted[s.name] {
			continue
		}
		delete(wanted, s.name)
		start := time.Now()
		b.logf("== %s", s.name)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
		b.logf("   %s took %v", s.name, time.Since(start).Round(time.Second))
	}
	for name := range wanted {
		return fmt.Errorf("unknown part %q", name)
	}
	return nil
}

// logf prints a line of progress.
func (b *Bench) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Log, format+"\n", args...)
}

// add adds a value to the result.
func (b *Bench) add(c result.Case, who result.Contestant, v float64) { b.Result.Add(c, who, v) }

// dir returns a new directory for files.
func (b *Bench) dir(name string) (string, error) {
	dir, err := os.MkdirTemp(b.Dir, name+"-")
	if err != nil {
		return "", err
	}
	return filepath.Clean(dir), nil
}

// site is a host with the API and the agent.
type site struct {
	*lab.Host

	api      *lab.API
	agent    *lab.Agent
	stateDir string
}

// newSite returns a host with an API, and no agent yet.
func (b *Bench) newSite(silent bool) (s *site, err error) {
	s = &site{}
	if s.stateDir, err = b.dir("state"); err != nil {
		return nil, err
	}
	if s.Host, err = lab.NewHost(silent); err != nil {
		return nil, err
	}
	apiDir, err := b.dir("api")
	if err == nil {
		s.api, err = s.NewAPI(apiDir)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// close stops the agent and the API, and gives the host up.
func (s *site) close() error {
	var errs []error
	if s.agent != nil {
		errs = append(errs, s.agent.Stop())
	}
	return errors.Join(append(errs, s.api.Close(), s.Close())...)
}

// iptablesBackend makes the agent enforce by ipset and iptables.
const iptablesBackend = "SIKKER_BACKEND=iptables"

// startAgent publishes a list and starts the agent until everything runs.
func (b *Bench) startAgent(ctx context.Context, s *site, l *lists.List, cpus lab.CPUs, env ...string) error {
	if err := s.api.Publish(l.Text()); err != nil {
		return err
	}
	start := time.Now()
	var err error
	if s.agent, err = s.NewAgent(b.Agent, s.api, s.stateDir, cpus, env...); err != nil {
		return err
	}
	if _, err = s.agent.Await(ctx, lab.Blocking, start); err != nil {
		return err
	}
	_, err = s.agent.Await(ctx, lab.Running, start)
	return err
}

// family returns the number of a list's family.
func family(l *lists.List) int {
	if l.V6 {
		return 6
	}
	return 4
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
