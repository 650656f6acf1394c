package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/plain"
	"github.com/sikkerapi/sikkerguard/internal/server"
)

// healthcheckTimeout is the longest wait for an answer. socketShare is the part of it for the
// control socket.
const healthcheckTimeout, socketShare = 5 * time.Second, 3 * time.Second

func healthcheckCommand(environ []string, out io.Writer) *cobra.Command {
	var alive bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 if the agent on this host enforces its list, else with 1 and the reason",
		Long: `Exit with 0 and "OK" if the agent on this host enforces its list. Exit with 0 and "OK, dry run: nothing
is blocked" if a dry run has a current list. Otherwise exit with 1 and print the reason on one line.

The command asks over the control socket in SIKKER_STATE_DIR, which no other user can keep busy. If there is no socket,
or the user may not open it, the command asks /healthz on 127.0.0.1, then on [::1], at SIKKER_HEALTH_PORT. It waits at
most five seconds, and needs neither the API key nor privileges. Use it for HEALTHCHECK in an image, for probes, and for
scripts.

With --alive, exit with 0 if an agent answers and its tasks make progress, even if the host is not protected. Use it for
a liveness probe, which restarts the agent: a restart does not help if the API is down or refuses the key.`,
		Example: `  sikkerguard healthcheck
  docker exec sikkerguard sikkerguard healthcheck`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return healthcheck(cmd.Context(), environ, alive, out) },
	}
	cmd.Flags().BoolVar(&alive, "alive", false, "exit with 0 while the agent works, even if the host is not protected")
	return cmd
}

func healthcheck(ctx context.Context, environ []string, alive bool, out io.Writer) error {
	dir, err := config.StateDir(environ)
	if err != nil {
		return err
	}
	port, err := config.HealthPort(environ)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	answer, err := bySocket(ctx, dir, alive)
	if noSocket := err; errors.Is(err, errNoSocket) {
		answer, err = byPort(ctx, port, alive)
		if err != nil && !errors.Is(err, server.ErrNotHealthy) {
			err = fmt.Errorf("%w; %w: is the agent running, and are SIKKER_HEALTH_PORT and SIKKER_STATE_DIR the same?",
				err, noSocket)
		}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, answer)
	return err
}

// errNoSocket reports that no agent answers at the control socket.
var errNoSocket = errors.New("no agent answers at the control socket")

// bySocket asks the agent over its control socket.
func bySocket(ctx context.Context, dir string, alive bool) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, socketShare)
	defer cancel()
	ask, negative := control.Health, "not healthy"
	if alive {
		ask, negative = control.Alive, "not alive"
	}
	o, err := ask(ctx, dir)
	text := plain.Line(o.Text, maxText)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", errNoSocket, err)
	case !o.OK:
		return "", fmt.Errorf("%s: %s", negative, text)
	case text != "":
		return "OK, " + text, nil
	default:
		return "OK", nil
	}
}

// byPort asks the agent over TCP. If alive is set, every answer of an agent means yes.
func byPort(ctx context.Context, port uint16, alive bool) (answer string, err error) {
	answer, err = server.Healthcheck(ctx, port)
	if alive && errors.Is(err, server.ErrNotHealthy) {
		return "OK", nil
	}
	return answer, err
}
