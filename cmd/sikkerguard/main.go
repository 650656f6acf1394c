// Command sikkerguard is a firewall agent for one Linux host: it blocks the addresses that
// SikkerAPI rates as malicious. This package is only the command line; the agent is in
// internal/agent.
package main

import (
	"errors"
	"io"
	"os"
	"time"
)

// version and commit are set by the linker, as in -X main.version=1.0.0 -X
// main.commit=0123456789ab.
var (
	version = "0.0.0-dev"
	commit  = "unknown" //nolint:gochecknoglobals // only a variable can be set by the linker
)

// exitConfig is the exit code if the environment is not valid: EX_CONFIG of sysexits.h. A service
// manager need not try again, because only the operator can correct it.
const exitConfig = 78

func main() { os.Exit(run()) }

func run() int {
	if err := command(os.Environ(), os.Stdout).Execute(); err != nil {
		complain(os.Stderr, err)
		if _, ok := errors.AsType[configError](err); ok {
			return exitConfig
		}
		return 1
	}
	return 0
}

// complain writes the error of the command to stderr.
func complain(stderr io.Writer, err error) { say(stderr, complaint(err)) }

// say writes a line to stderr. It does not wait for ever for a reader that does not read.
func say(stderr io.Writer, line string) {
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		_, _ = io.WriteString(stderr, line)
	}()
	select {
	case <-doneC:
	case <-time.After(flushTimeout):
	}
}
