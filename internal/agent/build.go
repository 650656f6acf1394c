package agent

import (
	"context"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/enforce"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/memory"
	"github.com/sikkerapi/sikkerguard/internal/server"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// New returns an Agent. Nothing is opened and no request is sent yet. It returns an error if the
// API's client refuses the configured key or address.
func New(cfg config.Config, o Options) (*Agent, error) {
	client, err := sikkerapi.New(cfg.APIKey.Reveal(),
		sikkerapi.WithBaseURL(cfg.APIURL.String()),
		sikkerapi.WithUserAgent("SikkerGuard/"+o.Version))
	if err != nil {
		return nil, fmt.Errorf("set up SikkerAPI client: %w", err)
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	a := &Agent{cfg: cfg, o: o, log: o.Log}
	a.dir = statedir.New(cfg.StateDir, cfg.DryRun) // a dry run writes nothing there
	a.board = status.New(status.Options{
		Version: o.Version, DryRun: cfg.DryRun, Secret: cfg.APIKey.Reveal(), PullInterval: cfg.PullInterval,
		Clock: clock.System(), Log: a.log,
		Present:  func() error { return a.enforcer.Present() },
		Fill:     []func(*status.Status){a.fill},
		Panicked: func(part string, err error) { a.supervisor.logPanic(part, err) },
	})
	a.supervisor = &supervisor{board: a.board, log: a.log}
	a.restC = make(chan struct{})
	if cfg.DryRun {
		close(a.restC) // there is no database
	}
	a.enforcer = a.newEnforcer(advisedAPI{client})
	if !cfg.DryRun {
		a.delivery = a.newDelivery(advisedAPI{client})
	}
	a.server = server.New(server.Options{Port: cfg.HealthPort, Source: a.board, Metrics: a.board.Gatherer()})
	a.health = &part{code: status.CondHealth, open: a.server.Listen, run: a.server.Run, close: a.server.Close}
	a.control = control.New(control.Options{
		Dir: cfg.StateDir, Guard: a.useStateDir, Pull: a.pull, Health: a.board.Health, Alive: a.enforcer.Alive,
	})
	a.commands = &part{code: status.CondControl, open: a.control.Listen, run: a.control.Run, close: a.control.Close}
	return a, nil
}

func (a *Agent) newEnforcer(api advisedAPI) *enforce.Enforcer {
	dir := feed.NewDir(a.cfg.StateDir, a.useStateDir)
	sikker := feed.NewSikker(feed.SikkerOptions{
		API: api, URL: a.cfg.APIURL.String(), Key: a.cfg.APIKey.Reveal(), ScoreMin: a.cfg.ScoreMin,
	})
	var own *enforce.Own
	if path := a.cfg.CustomBlacklist; path != "" {
		file := feed.NewFile(path)
		saved := feed.NewSaved(dir, strings.TrimSuffix(config.CustomCopy, ".txt"), file)
		own = &enforce.Own{File: file, Saved: saved, Path: path}
	}
	return enforce.New(enforce.Options{
		Settings: enforce.Settings{
			DryRun: a.cfg.DryRun, PullInterval: a.cfg.PullInterval, Allow: a.cfg.Whitelist,
			LogGroup: a.cfg.NFLOGGroup, LogRate: a.cfg.LogRate,
		},
		HangupC:  a.o.HangupC,
		Host:     host.New(host.Options{Allow: a.cfg.Whitelist, APIURL: a.cfg.APIURL}),
		StateDir: dir, Own: own,
		Remotes: []enforce.Remote{{Feed: sikker, Saved: feed.NewSaved(dir, "blacklist", sikker)}},
		Open: func() (firewall.Backend, error) {
			return firewall.Open(firewall.Options{
				Backend: string(a.cfg.Backend), Keep: a.cfg.OnCrash == config.OnCrashKeep, LogRate: a.cfg.LogRate,
			})
		},
		Leftovers: firewall.InForce, RestC: a.restC,
		Counters: func(ctx context.Context) (store.Counters, error) {
			return a.delivery.store.Counters(ctx)
		},
		Listed: func(name string, entries blocklist.Blocklist) {
			if a.delivery != nil && name == feed.SikkerName { // only SikkerAPI's entries are reported to it
				a.delivery.recorder.SetListed(entries)
			}
		},
		Memory: memory.New(),
		Board:  a.board, Clock: clock.System(), Log: a.log,
	})
}

// pull makes the enforcer pull, for the control socket.
func (a *Agent) pull(ctx context.Context, accept bool) control.Outcome {
	return control.Outcome(a.enforcer.Pull(ctx, accept))
}

// fill adds the figures that are read at the moment of a question.
func (a *Agent) fill(s *status.Status) {
	s.Hits, s.LogDropped = map[string]uint64{}, a.logDropped()
	a.enforcer.Fill(s)
	if a.delivery != nil && a.enforcer.Opened() {
		a.delivery.fill(s, a.enforcer.Ledger())
	}
}
