package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/deliver"
	"github.com/sikkerapi/sikkerguard/internal/enforce"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/observe"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/server"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// Options are what the agent gets from its process.
type Options struct {
	Version string           // as in "1.0.0"
	Banner  io.Writer        // gets the two lines that come before the log; nil for none
	Log     *zap.Logger      // nil for none
	Outlet  Outlet           // through which the log goes; nil for none that falls behind
	HangupC <-chan os.Signal // each value asks for a pull at once; nil for never

	Supervisor Supervisor // is told how the agent is
}

// Agent is the whole program. It runs once.
type Agent struct {
	cfg config.Config
	o   Options
	log *zap.Logger

	enforcer *enforce.Enforcer

	dir     *statedir.Dir
	sensor  *sensor.Sensor
	server  *server.Server
	control *control.Server
	helpers helpers // which of these are kept running
	faults  faults  // of the tasks that are
	api     advisedAPI

	store    *store.Store // nil in a dry run, as the next three are
	observer *observe.Observer
	recorder *deliver.Recorder
	courier  *deliver.Courier // also nil if reports are off

	unheard bool // the supervisor could not be told; the supervising task's own

	board *status.Board
}

// New makes an agent. Nothing is opened and nothing is asked yet. It fails when the API's client does not take the
// configured key or address.
func New(cfg config.Config, o Options) (*Agent, error) {
	client, err := sikkerapi.New(cfg.APIKey.Reveal(),
		sikkerapi.WithBaseURL(cfg.APIURL.String()),
		sikkerapi.WithUserAgent("SikkerGuard/"+o.Version))
	if err != nil {
		return nil, fmt.Errorf("set up SikkerAPI client: %w", err)
	}
	a := &Agent{
		cfg: cfg, o: o, log: o.Log,
		dir:    statedir.New(cfg.StateDir, cfg.DryRun), // a dry run writes nothing there
		api:    advisedAPI{client},
		sensor: sensor.New(sensor.Options{Group: cfg.NFLOGGroup}),
	}
	if a.log == nil {
		a.log = zap.NewNop()
	}
	a.board = status.New(status.Options{
		Version: o.Version, DryRun: cfg.DryRun, Secret: cfg.APIKey.Reveal(), PullInterval: cfg.PullInterval,
		Clock: clock.System(), Log: a.log, Present: func() error { return a.enforcer.Present() }, Fill: []func(*status.Status){a.fill},
		Panicked: func(part string, err error) { a.tellPanic(&helper{name: part}, err) },
	})
	a.enforcer = enforce.New(enforce.Options{
		DryRun: cfg.DryRun, PullInterval: cfg.PullInterval, OwnFile: cfg.CustomBlacklist, Allow: cfg.Whitelist,
		LogGroup: cfg.NFLOGGroup, LogRate: cfg.LogRate, HangupC: o.HangupC,
		Host: host.New(host.Options{Allow: cfg.Whitelist, APIURL: cfg.APIURL}),
		Feed: feed.New(feed.Options{
			API: a.api, URL: cfg.APIURL.String(), Key: cfg.APIKey.Reveal(), ScoreMin: cfg.ScoreMin,
			Custom: cfg.CustomBlacklist, CustomCopy: config.CustomCopy, StateDir: cfg.StateDir, Guard: a.useStateDir,
		}),
		Open: func() (firewall.Backend, error) {
			return firewall.Open(firewall.Options{
				Backend: string(cfg.Backend), Keep: cfg.OnCrash == config.OnCrashKeep, LogRate: cfg.LogRate,
			})
		},
		Leftovers: firewall.InForce,
		Counters:  func(ctx context.Context) (store.Counters, error) { return a.store.Counters(ctx) },
		Listed: func(list blocklist.Blocklist) {
			if a.recorder != nil {
				a.recorder.SetListed(list)
			}
		},
		Board: a.board, Clock: clock.System(), Log: a.log,
	})
	a.server = server.New(server.Options{Port: cfg.HealthPort, Source: a.board, Metrics: a.board.Gatherer()})
	a.control = control.New(control.Options{Dir: cfg.StateDir, Guard: a.useStateDir, Pull: a.pullFor, Health: a.board.Health, Alive: a.enforcer.Alive})
	if !cfg.DryRun {
		a.buildDelivery()
	}
	a.helpers = helpers{
		health:  &helper{code: status.CondHealth, open: a.server.Listen, run: a.server.Run, close: a.server.Close},
		sensor:  &helper{code: status.CondSensor, open: a.sensor.Open, run: a.sensor.Run, close: a.sensor.Close},
		control: &helper{code: status.CondControl, open: a.control.Listen, run: a.control.Run, close: a.control.Close},
	}
	return a, nil
}

// Run enforces and observes until ctx ends, then takes the rules away and returns nil. An error at the start means that
// nothing was changed; one at the end, that something may be left, and it says what.
func (a *Agent) Run(ctx context.Context) error {
	a.greet()
	if err := a.open(); err != nil {
		return errors.Join(err, a.close())
	}
	// The sensor and the recorder go on until the rules are gone and the last window has been told, and so outlive the tasks
	// that ctx ends.
	afterwards, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var sensing, controlling, recording, delivering errgroup.Group
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.keep(ctx, a.helpers.health) })
	g.Go(func() error { return a.keep(ctx, &helper{code: status.CondHostWatch, run: a.enforcer.WatchHost}) })
	g.Go(func() error { return a.keep(ctx, task("watch of resolver files", a.enforcer.WatchFiles)) })
	g.Go(func() error { return a.keep(ctx, task("survey of this host", a.enforcer.Survey)) })
	if a.cfg.CustomBlacklist != "" {
		g.Go(func() error { return a.keep(ctx, task("reader of the custom blacklist", a.enforcer.ReadOwn)) })
	}
	g.Go(func() error { return a.enforce(ctx) })
	if a.o.Outlet != nil {
		g.Go(func() error { return a.keep(ctx, task("watch of the log", a.watchOutlet)) })
	}
	g.Go(func() error { return a.keep(ctx, task("watch of the enforcing task", a.enforcer.WatchPulse)) })
	// A file of the disk, which may hang: it is waited for last.
	controlling.Go(func() error { return a.keep(ctx, a.helpers.control) })
	controlling.Go(func() error { return a.keep(ctx, task("watch of the state directory", a.watchStateDir)) })
	// It is not waited for before the rules are removed, in case the supervisor does not read what it is told.
	if a.o.Supervisor.Notify != nil {
		stopC := ctx.Done()
		supervise := func(ctx context.Context) error { return a.supervise(ctx, a.enforcer.ReadyC(), stopC) }
		sensing.Go(func() error { return a.keep(afterwards, task("messages to the service manager", supervise)) })
	}
	if a.cfg.DryRun {
		g.Go(func() error { return a.keep(ctx, task("look for rules of other runs", a.enforcer.WatchLeftovers)) })
	}
	if !a.cfg.DryRun {
		sensing.Go(func() error { return a.keep(afterwards, a.helpers.sensor) })
		recording.Go(func() error { return a.keep(afterwards, task("recording", a.recorder.Run)) })
		g.Go(func() error { return a.keep(ctx, &helper{code: status.CondRulesWatch, run: a.enforcer.WatchRules}) })
		g.Go(func() error { return a.keep(ctx, task("log of blocked connections", a.observer.Run)) })
		if a.courier != nil {
			delivering.Go(func() error { return a.keep(ctx, task("reports", a.courier.Run)) })
		}
	}
	<-ctx.Done()
	err := a.takeOut(g.Wait)
	if !a.cfg.DryRun {
		a.observer.Finish()
	}
	stop()
	err = errors.Join(err, a.waitForAll([]pending{
		{"NFLOG listener to end", ending, sensing.Wait},
		{"database to take the last hits", recordEnding, recording.Wait},
		{"report to end", ending, delivering.Wait},
		{"last report", ending, a.lastReport},
		{"control socket to go", ending, controlling.Wait},
	}))
	if errors.Is(err, errHangs) {
		return err // what close takes away may be in use
	}
	return errors.Join(err, a.close())
}

// takeOut removes the rules before anything is logged and before tasks returns, which may hang on a
// disk. If the kernel refuses to remove them, takeOut tries once more after tasks, because a task
// that has ended holds the firewall no more.
func (a *Agent) takeOut(tasks func() error) error {
	removed := a.enforcer.Remove()
	a.log.Info("Stopping")
	a.tellRemoved(removed)
	err := a.waitFor("tasks to end", ending, tasks)
	if removed != nil {
		removed = a.enforcer.Remove()
		a.tellRemoved(removed)
	}
	return errors.Join(err, removed)
}

// buildDelivery makes the parts that take dropped packets to the log, the database and the API.
func (a *Agent) buildDelivery() {
	a.store = store.New(store.Options{Dir: a.cfg.StateDir, Guard: a.useStateDir, Damaged: func(d *store.DamagedError) {
		a.log.Warn("The database of blocked connections", zap.Error(d))
	}})
	a.recorder = deliver.NewRecorder(deliver.RecorderOptions{
		Database: a.store, Ledger: a.enforcer.Ledger(), Allowlist: a.enforcer, Reports: a.cfg.ReportEnabled, PortName: a.cfg.Ports.Name,
		Outbound: deliver.Outbound{Sockets: host.UDPSockets, LocalPorts: host.LocalPorts, Tracks: host.Tracks, Peers: host.UDPPeers},
		Board:    a.board, Log: a.log,
	})
	a.observer = observe.New(observe.Options{
		Sensor: a.sensor, Counter: a.enforcer.Ledger(), Sinks: []observe.Sink{a.recorder, a.enforcer}, PortName: a.cfg.Ports.Name,
		LogRate: a.cfg.LogRate, Fields: a.cfg.LogFormat == config.LogJSON, Log: a.log,
	})
	if a.cfg.ReportEnabled {
		a.courier = deliver.NewCourier(deliver.CourierOptions{
			Store: a.store, API: a.api, Allowlist: a.enforcer, Interval: a.cfg.ReportInterval, Clock: clock.System(),
			Board: a.board, Log: a.log, Kept: a.recorder.Queue, Unreached: a.enforcer.SurveyNow,
		})
	}
}

// lastReport sends one more batch, if reports are on.
func (a *Agent) lastReport() error {
	if a.courier == nil {
		return nil
	}
	return a.courier.Last()
}

// greet prints the banner and what is configured.
func (a *Agent) greet() {
	if a.o.Banner != nil {
		// A terminal that has gone away is no reason to leave a server unprotected.
		_, _ = fmt.Fprintf(a.o.Banner, "SikkerGuard v%s\nFirewall protection powered by SikkerAPI threat intelligence\n", a.o.Version)
	}
	a.log.Info(settings(a.cfg))
	for _, w := range a.cfg.Warnings {
		a.log.Warn("Configuration", zap.String("warning", w))
	}
	if a.cfg.DryRun {
		a.log.Info("Dry run: the firewall is not touched")
		a.board.SetCondition(status.CondDryRun, errors.New("SIKKER_DRY_RUN is set"))
	}
}

// settings is the configuration in one line.
func settings(cfg config.Config) string {
	reports := "Reports every " + status.Short(cfg.ReportInterval)
	if !cfg.ReportEnabled {
		reports = "Reports off"
	}
	return fmt.Sprintf("Score threshold: %d | Pull every %s | %s", cfg.ScoreMin, status.Short(cfg.PullInterval), reports)
}

// open claims what the agent wants of the host, before anything is changed: the firewall first, because its library wants a
// low descriptor, and because it alone is needed. The NFLOG group and the port, which another program may hold, are tried.
func (a *Agent) open() error {
	if !a.cfg.DryRun {
		if err := a.enforcer.Open(); err != nil {
			return err
		}
		a.tryOpen(a.helpers.sensor)
	}
	if a.cfg.DryRun {
		a.enforcer.LookForLeftovers()
	}
	a.tryOpen(a.helpers.health)
	if note := a.server.Note(); note != "" {
		a.log.Info(note)
	}
	return nil
}

// pullFor has the Enforcer pull, for the control socket.
func (a *Agent) pullFor(ctx context.Context, accept bool) control.Outcome {
	return control.Outcome(a.enforcer.Pull(ctx, accept))
}

// close lets go of what open claimed.
func (a *Agent) close() error {
	errs := []error{a.sensor.Close(), a.server.Close(), a.control.Close(), a.enforcer.Close()}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	errs = append(errs, a.dir.Close())
	return errors.Join(errs...)
}

// tellRemoved says that the rules are gone, if there were any and they are.
func (a *Agent) tellRemoved(err error) {
	if err == nil && a.enforcer.Used() {
		a.log.Info("Firewall rules removed")
	}
}
