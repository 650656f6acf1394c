// Command sikkerguard is a firewall agent for one Linux host: it blocks the addresses that SikkerAPI knows to be
// malicious. It is the command line alone; what it does is in internal/agent.
package main

import (
	"fmt"
	"os"
)

// version and commit are set by the linker, as in -X main.version=1.0.0 -X main.commit=0123456789ab.
var (
	version = "0.0.0-dev"
	commit  = "unknown" //nolint:gochecknoglobals // only a variable can be set by the linker
)

func main() { os.Exit(run()) }

func run() int {
	if err := command(os.Environ(), os.Stdout).Execute(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "sikkerguard:", err)
		return 1
	}
	return 0
}
