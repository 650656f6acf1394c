package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/agent"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/server"
)

// command is the whole command line. Everything is configured by environ; out gets what is asked for, and the log.
func command(environ []string, out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "sikkerguard",
		Short: "Block the addresses that SikkerAPI knows to be malicious",
		Long: `SikkerGuard pulls the addresses that SikkerAPI rates as malicious, keeps them in an nftables table of its own, and
drops what comes from them before connection tracking. It logs what it blocked, and removes every trace when it is
stopped. Run it as root, or with CAP_NET_ADMIN; all it needs to know is the API key.

Signals: SIGTERM and SIGINT remove the rules and end it, SIGHUP pulls the list at once, a second SIGTERM or SIGINT kills.

` + config.Usage(),
		Example: `  SIKKER_API_KEY=sk_… sikkerguard
  SIKKER_API_KEY=sk_… SIKKER_DRY_RUN=true sikkerguard    # say what would be blocked, touch nothing
  nft list table inet sikkerguard                        # what is blocked now
  curl -s localhost:8080/status`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), environ, out) },
	}
	root.SetOut(out)
	root.SetContext(context.Background())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use:   "run",
			Short: "Protect this host until told to stop (the default)",
			Args:  cobra.NoArgs,
			RunE:  root.RunE,
		},
		&cobra.Command{
			Use:   "version",
			Short: "Print the version",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintf(out, "sikkerguard %s %s/%s %s\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version())
				return err
			},
		},
		&cobra.Command{
			Use:   "healthcheck",
			Short: "Exit with 0 if the agent on this host enforces its list, else with 1 and the reason",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return healthcheck(cmd.Context(), environ) },
		},
	)
	return root
}

// runAgent runs until SIGTERM or SIGINT. A second one ends the process at once, by the default action of the signal.
func runAgent(ctx context.Context, environ []string, out io.Writer) error {
	cfg, err := config.Load(environ)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	hangupC := make(chan os.Signal, 1)
	signal.Notify(hangupC, unix.SIGHUP)
	defer signal.Stop(hangupC)

	o := agent.Options{Version: version, Log: logger(cfg, out), HangupC: hangupC}
	if cfg.LogFormat == config.LogConsole {
		o.Banner = out
	}
	a, err := agent.New(cfg, o)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// healthcheckTimeout is how long an agent may take to answer.
const healthcheckTimeout = 5 * time.Second

func healthcheck(ctx context.Context, environ []string) error {
	port, err := config.HealthPort(environ)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	return server.Healthcheck(ctx, port)
}
