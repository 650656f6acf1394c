package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/agent"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/plain"
)

// command is the whole command line. Everything is configured by environ; out gets what is asked for, and the log. Nothing
// that a terminal would obey reaches out.
func command(environ []string, out io.Writer) *cobra.Command {
	raw := out
	out = plain.NewWriter(raw)
	root := &cobra.Command{
		Use:   "sikkerguard",
		Short: "Block the addresses that SikkerAPI knows to be malicious",
		Long: `SikkerGuard pulls the addresses that SikkerAPI rates as malicious, keeps them in an nftables table of its own, and
drops what comes from them before connection tracking. It logs what it blocked, and removes every trace when it is
stopped. Run it as root, or with CAP_NET_ADMIN; all it needs to know is the API key.

Signals: SIGTERM and SIGINT remove the rules and end it, SIGHUP pulls the list at once. A second SIGTERM or SIGINT kills if
it comes at least a second after the first; before that it is ignored, as one stop may arrive as two signals.
Exit codes: 0 when it was told to stop, 78 when a variable is not valid, 1 for everything else.

` + config.Usage(),
		Example: `  SIKKER_API_KEY=sk_… sikkerguard
  SIKKER_API_KEY=sk_… SIKKER_DRY_RUN=true sikkerguard    # say what would be blocked, touch nothing
  nft list table inet sikkerguard                        # what is blocked now
  curl -s localhost:8080/status`,
		Args:          isCommand,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runAgent(cmd, environ, raw, false) },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate(versionLine())
	root.SetOut(out)
	root.SetContext(context.Background())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		runCommand(environ, raw),
		&cobra.Command{
			Use:   "version",
			Short: "Print the version and the commit it was built from",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := io.WriteString(out, versionLine())
				return err
			},
		},
		healthcheckCommand(environ, out),
		pullCommand(environ, out),
		&cobra.Command{
			Use:   "cleanup",
			Short: "Remove what a killed agent left in the kernel (SIKKER_ON_CRASH=keep, or iptables)",
			Args:  cobra.NoArgs,
			RunE:  func(*cobra.Command, []string) error { return cleanup(out) },
		},
	)
	return root
}

func versionLine() string {
	return fmt.Sprintf("sikkerguard %s (commit %s) %s/%s %s\n", version, commit, runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// isCommand refuses what is no command, and names those that it may have been meant to be.
func isCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		text += ", perhaps " + strings.Join(like, " or ")
	}
	return errors.New(text + ": `sikkerguard --help` lists them")
}

func pullCommand(environ []string, out io.Writer) *cobra.Command {
	var accept bool
	cmd := &cobra.Command{
		Use:   "pull",
		Short: "Have the agent on this host pull its list now, and print what came of it",
		Long: `Have the agent on this host pull its list now, and print what came of it. The exit code is 0 when the list is in force.

The agent refuses a list that looks wrong: one that is empty, has more than twice or less than half the entries of those
before, holds an entry wider than /8 (IPv4) or /16 (IPv6), or covers a tenth of the addresses in use. The refusal names the
list, which is kept aside. When you know it to be right, --accept has that list enforced, or the one that the API gives now if
no guard refuses it. Another list that is refused is shown and not enforced. A list that would block a good part of the
Internet cannot be accepted. --accept also tries a list again that was rolled back. Whitelisted addresses stay reachable.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer remind(cmd.ErrOrStderr())()
			return pull(cmd.Context(), environ, out, accept)
		},
	}
	cmd.Flags().BoolVar(&accept, "accept", false, "enforce the list that was refused and kept aside")
	return cmd
}

// remindAfter is how long a pull may be silent.
const remindAfter = 5 * time.Second

// remind says on stderr that a pull takes its time, unless it is stopped before.
func remind(stderr io.Writer) (stop func()) {
	timer := time.AfterFunc(remindAfter, func() {
		_, _ = io.WriteString(stderr, "sikkerguard: waiting for the API, at most a minute\n") // it is no matter if it is not read
	})
	return func() { timer.Stop() }
}

// errNotInForce makes the exit code of a pull that did not succeed; what happened has been printed.
var errNotInForce = errors.New("the pulled list is not in force")

func pull(ctx context.Context, environ []string, out io.Writer, accept bool) error {
	dir, err := config.StateDir(environ)
	if err != nil {
		return err
	}
	o, err := control.Pull(ctx, dir, accept)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n", plain.Line(o.Text, maxText)); err != nil {
		return err
	}
	if !o.OK {
		return errNotInForce
	}
	return nil
}

func cleanup(out io.Writer) error {
	removed, err := firewall.Cleanup()
	if err != nil {
		return err
	}
	text := "Nothing of SikkerGuard's was there"
	if len(removed) > 0 {
		text = plain.Line("Removed "+strings.Join(removed, ", "), maxText)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

// configError is what is wrong with the environment.
type configError struct{ error }

// flushMost is how long the end of the process waits for a reader of the log that does not read.
const flushMost = 2 * time.Second

func runCommand(environ []string, out io.Writer) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Protect this host until told to stop (the default)",
		Long: `Protect this host until told to stop (the default).

A variable that is not valid ends it with exit code 78, which a service manager need not try again. Docker tries every exit code
again: with --wait-for-config it stays, names on stderr what is not valid, answers so to ` + "`sikkerguard healthcheck`" + `, which makes the
container unhealthy, and begins when files that variables name have been corrected.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd, environ, out, wait) },
	}
	cmd.Flags().BoolVar(&wait, "wait-for-config", false, "wait for valid variables instead of ending with exit code 78")
	return cmd
}

// runAgent runs until SIGTERM or SIGINT.
func runAgent(cmd *cobra.Command, environ []string, out io.Writer, wait bool) error {
	ctx, hangupC, stop := heed(cmd.Context())
	defer stop()
	cfg, err := config.Load(environ)
	if err != nil && wait {
		cfg, err = awaitConfig(ctx, environ, err, cmd.ErrOrStderr())
		if ctx.Err() != nil {
			return nil // it was told to stop
		}
	}
	if err != nil {
		return configError{err}
	}
	log, outlet := logger(cfg, out)
	flush := outlet.Start()
	defer flush(flushMost)
	o := agent.Options{Version: version, Log: log, Outlet: outlet, HangupC: hangupC}
	if o.Supervisor, err = supervisor(); err != nil {
		log.Warn("The service manager's watchdog is left out", zap.Error(err))
	}
	if cfg.LogFormat == config.LogConsole {
		o.Banner = plain.NewWriter(outlet)
	}
	a, err := agent.New(cfg, o)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
