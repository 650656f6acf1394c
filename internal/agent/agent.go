package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/enforce"
	"github.com/sikkerapi/sikkerguard/internal/server"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// endMost is the longest wait for a group of parts to end, and recordMost the one for the recorder:
// after an attack it has tens of thousands of hits to write. The rules are gone by then. Service
// managers wait for 30 s, which is longer than both together.
const endMost, recordMost = 6 * time.Second, 20 * time.Second

// Options are the dependencies of an Agent.
type Options struct {
	Version string           // as in "1.0.0"
	Banner  io.Writer        // gets the two lines that come before the log; nil for none
	Log     *zap.Logger      // nil for none
	Outlet  Outlet           // writes the log; nil if the log cannot stall
	HangupC <-chan os.Signal // each value asks for a pull at once; nil for never

	ServiceManager ServiceManager // receives the state of the agent
}

// Agent is the whole program. It runs once.
type Agent struct {
	cfg config.Config
	o   Options
	log *zap.Logger

	board      *status.Board
	dir        *statedir.Dir
	server     *server.Server
	control    *control.Server
	enforcer   *enforce.Enforcer
	delivery   *delivery     // nil in a dry run
	restC      chan struct{} // closed when the database is open, or cannot be opened
	supervisor *supervisor
	health     *part // of server
	commands   *part // of control
}

// Run enforces and observes until ctx ends, then removes the rules and returns nil. If it returns
// an error at the start, nothing was changed. An error at the end names the rules or records that
// may be left.
func (a *Agent) Run(ctx context.Context) error {
	a.announce()
	if err := a.open(); err != nil {
		return errors.Join(err, a.close())
	}
	// The NFLOG listener and the recorder run until the rules are removed and the last window is
	// logged, and so outlive the parts that end with ctx.
	late, endLate := context.WithCancel(context.WithoutCancel(ctx))
	defer endLate()
	tasks := &group{name: "tasks to end", most: endMost}
	listening := &group{name: "NFLOG listener to end", most: endMost}
	recording := &group{name: "database to take the last hits", most: recordMost}
	reporting := &group{name: "report to end", most: endMost}
	onDisk := &group{name: "control socket to go", most: endMost}

	run := a.supervisor.run
	tasks.start(ctx, run, a.tasks()...)
	onDisk.start(ctx, run, a.commands, task("watch of the state directory", a.watchStateDir))
	if a.o.ServiceManager.Notify != nil {
		// The rules are removed without a wait for it, because the manager may not read its socket.
		listening.start(late, run, task("messages to the service manager", a.notifier(ctx.Done()).Run))
	}
	if d := a.delivery; d != nil {
		listening.start(late, run, d.listener)
		recording.start(late, run, task("recorder", d.record(a.enforcer.ReadyC())))
		tasks.start(ctx, run, task("log of blocked connections", d.observer.Run))
		if d.courier != nil {
			reporting.start(ctx, run, task("reports", d.courier.Run))
		}
	}
	<-ctx.Done()
	err := a.removeRules(tasks.wait)
	a.delivery.finish()
	endLate()
	lastReport := step{name: "last report", most: endMost, call: a.delivery.reportLast}
	err = errors.Join(err, waitInOrder(listening, recording, reporting, lastReport, onDisk))
	if errors.Is(err, errHangs) {
		return err // close would release things that are in use
	}
	return errors.Join(err, a.close())
}

// tasks returns the parts that end with the context of Run and use neither a disk nor the API's
// report endpoint.
func (a *Agent) tasks() []*part {
	all := []*part{
		a.health,
		{code: status.CondHostWatch, run: a.enforcer.WatchHost},
		task("watch of resolver files", a.enforcer.WatchFiles),
		task("survey of this host", a.enforcer.Survey),
		task("enforcement", a.enforcer.Run),
		task("watch of the enforcement loop", a.enforcer.WatchPulse),
	}
	if a.cfg.CustomBlacklist != "" {
		all = append(all, task("reader of the custom blacklist", a.enforcer.ReadOwn))
	}
	if a.o.Outlet != nil {
		all = append(all, task("watch of the log", a.watchOutlet))
	}
	if a.cfg.DryRun {
		return append(all, task("search for rules of other runs", a.enforcer.WatchLeftovers))
	}
	return append(all, &part{code: status.CondRulesWatch, run: a.enforcer.WatchRules})
}

// notifier returns the notifier of the service manager. stopC is closed when the agent begins to
// stop.
func (a *Agent) notifier(stopC <-chan struct{}) *notifier {
	return &notifier{
		manager: a.o.ServiceManager, board: a.board, log: a.log,
		readyC: a.enforcer.ReadyC(), pulseC: a.enforcer.PulseC(), stopC: stopC,
	}
}

// removeRules removes the rules before anything is logged and before it calls wait, which waits for
// the tasks and may hang on a disk. If the kernel refuses to remove the rules, removeRules tries
// once more after wait, because a task that has ended no longer holds the firewall.
func (a *Agent) removeRules(wait func() error) error {
	removed := a.enforcer.Remove()
	a.log.Info("Stopping")
	a.logRemoved(removed)
	err := wait()
	if removed != nil {
		removed = a.enforcer.Remove()
		a.logRemoved(removed)
	}
	return errors.Join(err, removed)
}

// logRemoved logs that the rules are removed, if there were any and err is nil.
func (a *Agent) logRemoved(err error) {
	if err == nil && a.enforcer.Used() {
		a.log.Info("Firewall rules removed")
	}
}

// announce prints the banner and logs the configuration.
func (a *Agent) announce() {
	if a.o.Banner != nil {
		// A terminal that has gone away is no reason to leave a server unprotected.
		_, _ = fmt.Fprintf(a.o.Banner, "SikkerGuard v%s\n%s\n", a.o.Version,
			"Firewall protection powered by SikkerAPI threat intelligence")
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

// settings returns the configuration as one line.
func settings(cfg config.Config) string {
	reports := "Reports every " + status.Short(cfg.ReportInterval)
	if !cfg.ReportEnabled {
		reports = "Reports off"
	}
	return fmt.Sprintf("Score threshold: %d | Pull every %s | %s",
		cfg.ScoreMin, status.Short(cfg.PullInterval), reports)
}

// open opens the firewall, the NFLOG group and the port of the health endpoint, before anything is
// changed. The firewall comes first, because its library needs a low descriptor; it alone must
// open. Another program may hold the NFLOG group or the port: the supervisor retries these.
func (a *Agent) open() error {
	if a.cfg.DryRun {
		a.enforcer.CheckLeftovers()
	} else {
		if err := a.enforcer.Open(); err != nil {
			return err
		}
		a.supervisor.open(a.delivery.listener)
	}
	a.supervisor.open(a.health)
	if note := a.server.Note(); note != "" {
		a.log.Info(note)
	}
	return nil
}

// close releases everything that open and the parts have opened.
func (a *Agent) close() error {
	return errors.Join(
		a.delivery.closeSensor(), a.server.Close(), a.control.Close(), a.enforcer.Close(),
		a.delivery.closeStore(), a.dir.Close(),
	)
}
