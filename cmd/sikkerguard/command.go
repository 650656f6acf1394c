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

// command returns the command line. environ has the configuration. out gets the output of commands
// and the log, without any character that a terminal interprets.
func command(environ []string, out io.Writer) *cobra.Command {
	raw := out
	out = plain.NewWriter(raw)
	root := &cobra.Command{
		Use:   "sikkerguard",
		Short: "Block the addresses that SikkerAPI rates as malicious",
		Long: `SikkerGuard pulls the addresses that SikkerAPI rates as malicious, keeps them in its own nftables table,
and drops packets from them before connection tracking. It logs blocked packets, and removes its rules when it is
stopped. Run it as root, or with CAP_NET_ADMIN. Only the API key must be set.

Signals: SIGTERM and SIGINT remove the rules and stop the agent. SIGHUP pulls the list at once. A second SIGTERM or
SIGINT kills the agent if it comes at least a second after the first. Before that it is ignored, because one stop may
arrive as two signals.
Exit codes: 0 after SIGTERM or SIGINT, 78 if a variable is not valid, 1 for every other error.

` + config.Usage(),
		Example: `  SIKKER_API_KEY=sk_… sikkerguard
  SIKKER_API_KEY=sk_… SIKKER_DRY_RUN=true sikkerguard    # only log the entries that would be blocked
  nft list table inet sikkerguard                        # the active rules
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
		versionCommand(out),
		healthcheckCommand(environ, out),
		pullCommand(environ, out),
		cleanupCommand(out),
	)
	return root
}

func versionCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and its commit",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(out, versionLine())
			return err
		},
	}
}

func versionLine() string {
	return fmt.Sprintf("sikkerguard %s (commit %s) %s/%s %s\n",
		version, commit, runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// isCommand returns an error for an unknown command, with similar ones.
func isCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		text += "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return errors.New(text + " (`sikkerguard --help` lists all commands)")
}

func pullCommand(environ []string, out io.Writer) *cobra.Command {
	var accept bool
	cmd := &cobra.Command{
		Use:   "pull",
		Short: "Make the agent on this host pull its list now, and print the result",
		Long: `Make the agent on this host pull its list now, and print the result. The exit code is 0 if the list is
active.

The agent refuses a list that looks wrong: a list that is empty, has more than twice or less than half the entries of
the previous lists, has an entry wider than /8 (IPv4) or /16 (IPv6), or covers a tenth of the addresses in use. The
refusal names the list, which is set aside. If you have checked that the list is right, --accept applies it, or the
list that the API provides now if no guard refuses that one. If the API provides a different list and a guard refuses
it, the refusal is printed and the list is not applied. A list that would block a large part of the Internet cannot be
accepted. --accept also retries a list that was rolled back. Addresses on the allowlist stay reachable.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer remind(cmd.ErrOrStderr())()
			return pull(cmd.Context(), environ, out, accept)
		},
	}
	cmd.Flags().BoolVar(&accept, "accept", false, "apply the list that was refused and set aside")
	return cmd
}

// remindAfter is the longest time that a pull prints nothing.
const remindAfter = 5 * time.Second

// remind prints on stderr that a pull takes long, unless stop is called before.
func remind(stderr io.Writer) (stop func()) {
	timer := time.AfterFunc(remindAfter, func() {
		// a lost reminder does not matter
		_, _ = io.WriteString(stderr, "sikkerguard: waiting for the API, at most a minute\n")
	})
	return func() { timer.Stop() }
}

// errNotActive sets the exit code of a pull that failed. The outcome was printed before.
var errNotActive = errors.New("the pulled list is not active")

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
		return errNotActive
	}
	return nil
}

func cleanupCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "cleanup",
		Short: "Remove the rules that a killed agent left in the kernel " +
			"(SIKKER_ON_CRASH=keep, iptables, Linux before 5.12)",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return cleanup(out) },
	}
}

func cleanup(out io.Writer) error {
	removed, err := firewall.Cleanup()
	if err != nil {
		return err
	}
	text := "No rules of SikkerGuard were found"
	if len(removed) > 0 {
		text = plain.Line("Removed "+strings.Join(removed, ", "), maxText)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

// configError is an error of the environment.
type configError struct{ error }

// flushTimeout is the longest wait at exit for a reader of the log that does not read.
const flushTimeout = 2 * time.Second

func runCommand(environ []string, out io.Writer) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Protect this host until SIGTERM or SIGINT (the default)",
		Long: `Protect this host until SIGTERM or SIGINT (the default).

If a variable is not valid, the agent exits with code 78, after which a service manager need not restart it. Docker
restarts after every exit code. With --wait-for-config the agent does not exit: it prints the invalid variables on
stderr and starts once the files that variables name have been corrected. Until then ` + "`sikkerguard healthcheck`" + `
fails with the same text, which makes the container unhealthy.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd, environ, out, wait) },
	}
	cmd.Flags().BoolVar(&wait, "wait-for-config", false, "wait for valid variables instead of exiting with code 78")
	return cmd
}

// runAgent runs the agent until SIGTERM or SIGINT.
func runAgent(cmd *cobra.Command, environ []string, out io.Writer, wait bool) error {
	ctx, hangupC, stop := watchSignals(cmd.Context())
	defer stop()
	cfg, err := config.Load(environ)
	if err != nil && wait {
		cfg, err = awaitConfig(ctx, environ, err, cmd.ErrOrStderr())
		if ctx.Err() != nil {
			return nil // stopped while it waited
		}
	}
	if err != nil {
		return configError{err}
	}
	log, outlet := logger(cfg, out)
	flush := outlet.Start()
	defer flush(flushTimeout)
	o := agent.Options{Version: version, Log: log, Outlet: outlet, HangupC: hangupC}
	if o.ServiceManager, err = serviceManager(); err != nil {
		log.Warn("The watchdog of the service manager is not served", zap.Error(err))
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
