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

// healthcheckTimeout is how long an agent may take to answer, and socketShare the part of it for
// the control socket.
const healthcheckTimeout, socketShare = 5 * time.Second, 3 * time.Second

func healthcheckCommand(environ []string, out io.Writer) *cobra.Command {
	var alive bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 if the agent on this host enforces its list, else with 1 and the reason",
		Long: `Exit with 0 and "OK" if the agent on this host enforces its list, with 0 and "OK, dry run: nothing is blocked" if a
dry run has a current one; else with 1 and one line why.

It asks over the control socket in SIKKER_STATE_DIR, which no other user can keep busy. Where there is none, or it may not be
opened, it asks /healthz on 127.0.0.1, then on [::1], at the port SIKKER_HEALTH_PORT. It waits five seconds at most, and needs
neither the API key nor privileges: for HEALTHCHECK in an image, for probes, and for scripts.

With --alive it exits with 0 if an agent answers whose work goes on, whether the host is protected or not: for a liveness probe,
which starts the agent again. That the API is down or refuses the key is no reason for that.`,
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
			err = fmt.Errorf("%w; %w", err, noSocket)
		}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, answer)
	return err
}

// errNoSocket means that no agent answers at the control socket.
var errNoSocket = errors.New("no agent answers at the control socket")

// bySocket asks the agent over its control socket.
func bySocket(ctx context.Context, dir string, alive bool) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, socketShare)
	defer cancel()
	ask, not := control.Health, "not healthy"
	if alive {
		ask, not = control.Alive, "it does not go on"
	}
	o, err := ask(ctx, dir)
	text := plain.Line(o.Text, maxText)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", errNoSocket, err)
	case !o.OK:
		return "", fmt.Errorf("%s: %s", not, text)
	case text != "":
		return "OK, " + text, nil
	default:
		return "OK", nil
	}
}

// byPort asks the agent over TCP. To a question whether it is alive any answer of its health is
// yes.
func byPort(ctx context.Context, port uint16, alive bool) (answer string, err error) {
	answer, err = server.Healthcheck(ctx, port)
	if alive && errors.Is(err, server.ErrNotHealthy) {
		return "OK", nil
	}
	return answer, err
}
