package enforce

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/observe"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// newEnforcer returns an Enforcer with the settings of the variables, and its log. Its state
// directory is never the machine's.
func newEnforcer(t *testing.T, vars ...string) (*Enforcer, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	return newEnforcerWithLog(t, zap.New(core, zap.Development()), vars...), logs
}

// newEnforcerWithLog returns an Enforcer with the settings of the variables.
func newEnforcerWithLog(t *testing.T, log *zap.Logger, vars ...string) *Enforcer {
	t.Helper()
	cfg, err := config.Load(append([]string{
		"SIKKER_API_KEY=sk_test_unit", "SIKKER_STATE_DIR=" + filepath.Join(t.TempDir(), "state"),
	}, vars...))
	if err != nil {
		t.Fatal(err)
	}
	client, err := sikkerapi.New(cfg.APIKey.Reveal(), sikkerapi.WithBaseURL(cfg.APIURL.String()))
	if err != nil {
		t.Fatal(err)
	}
	var e *Enforcer
	board := status.New(status.Options{
		Version: "1.0.0", DryRun: cfg.DryRun, Secret: cfg.APIKey.Reveal(), PullInterval: cfg.PullInterval,
		Clock: clock.System(), Log: log, Present: func() error { return e.Present() },
		Fill: []func(*status.Status){func(s *status.Status) {
			if e.Fill(s); e.backend.fw != nil {
				s.Events.Dropped = e.backend.ledger.ReadSoon().Packets()
			}
		}},
	})
	dir := feed.NewDir(cfg.StateDir, nil)
	sikker := feed.NewSikker(feed.SikkerOptions{
		API: client, URL: cfg.APIURL.String(), Key: cfg.APIKey.Reveal(), ScoreMin: cfg.ScoreMin,
	})
	var own *Own
	if path := cfg.CustomBlacklist; path != "" {
		file := feed.NewFile(path)
		own = &Own{File: file, Saved: feed.NewSaved(dir, "custom", file), Path: path}
	}
	e = New(Options{
		Settings: Settings{
			DryRun: cfg.DryRun, PullInterval: cfg.PullInterval, Allow: cfg.Whitelist,
			LogGroup: cfg.NFLOGGroup, LogRate: cfg.LogRate,
		},
		Host:     host.New(host.Options{Allow: cfg.Whitelist, APIURL: cfg.APIURL}),
		StateDir: dir, Remotes: []Remote{{Feed: sikker, Saved: feed.NewSaved(dir, "blacklist", sikker)}}, Own: own,
		Open:      func() (firewall.Backend, error) { return firewall.Open(firewall.Options{LogRate: cfg.LogRate}) },
		Leftovers: firewall.InForce,
		Counters:  func(context.Context) (store.Counters, error) { return store.Counters{}, nil },
		Board:     board, Clock: clock.System(), Log: log,
	})
	return e
}

// sikker returns the state of the first feed.
func (e *Enforcer) sikker() *remote { return e.remotes[0] }

// restoreAll restores all saved files in the manner of a start.
func (e *Enforcer) restoreAll(ctx context.Context) {
	saved := e.readSaved()
	e.restore(ctx, saved)
	for i, r := range e.remotes {
		e.restoreRefused(r, saved.refused[i])
	}
}

// runAgain runs e until ctx ends, again after each panic, and returns the number of panics.
func runAgain(ctx context.Context, e *Enforcer) (panicked int) {
	for ctx.Err() == nil {
		if err := panics.Contain(func() error { return e.Run(ctx) }); err != nil {
			panicked++
			clock.Sleep(ctx, time.Second)
		}
	}
	return panicked
}

// runLine runs e and all that it needs on the real kernel until ctx ends. Then it removes the
// rules, in the manner of the agent.
func runLine(ctx context.Context, e *Enforcer) error {
	if err := e.Open(); err != nil {
		return err
	}
	s := sensor.New(sensor.Options{Group: e.o.LogGroup})
	if err := s.Open(); err != nil {
		return err
	}
	o := observe.New(observe.Options{
		Sensor: s, Counter: e.backend.ledger, Keys: e, Sinks: []observe.Sink{e}, LogRate: e.o.LogRate,
		Unread: func(error) {}, Log: e.o.Log,
		PortName: func(port uint16) (string, bool) { return "dns", port == 53 },
	})
	sensing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var events errgroup.Group
	events.Go(func() error { return s.Run(sensing) })
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{e.Run, e.WatchHost, e.WatchFiles, e.Survey, e.WatchRules, o.Run} {
		g.Go(func() error { return run(ctx) })
	}
	if e.own.reader != nil {
		g.Go(func() error { return e.ReadOwn(ctx) })
	}
	err := errors.Join(g.Wait(), e.Remove())
	stop()
	return errors.Join(err, events.Wait(), e.Close())
}

// kernel is a firewall whose Present returns gone.
type kernel struct {
	firewall.Backend

	gone error
}

func (k *kernel) Present() error                    { return k.gone }
func (*kernel) Info() ruleset.Info                  { return ruleset.Info{Name: "nftables"} }
func (*kernel) Counters() (ruleset.Counters, error) { return ruleset.Counters{Packets4: 3}, nil }
