// Command demo shows the main task of SikkerGuard on two throwaway hosts, which are network
// namespaces on this machine: a server that the agent protects, and an attacker that sends
// connection requests ("knocks") from listed and unlisted addresses. It ends by itself, leaves
// nothing behind however it ends, and exits with 1 if any result was wrong.
//
// It is run by `make demo`, as root, from the root of the repository.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// limit ends a demo that hangs. It takes half a minute, and ten times that on an emulated and busy
// processor.
const limit = 5 * time.Minute

func main() { os.Exit(run()) }

func run() int {
	// With a handler, a write to a pipe without a reader is an error and does not end the process
	// before it has cleaned up.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var err error
	switch role, args := argument(1), os.Args[min(2, len(os.Args)):]; role {
	case "":
		err = contain()
	case inside:
		err = demo(ctx, os.Stdout)
	case "serve": // on the server
		err = serve(ctx, args)
	case "knock": // on the attacker
		err = knock(ctx, os.Stdin, os.Stdout)
	case "get": // on the server
		err = get(ctx, argument(2), os.Stdout)
	default:
		err = fmt.Errorf("unknown role %q: run it without arguments", role)
	}
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && argument(1) == "" {
		return max(1, ended.ExitCode()) // it has printed the reason
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

func argument(i int) string {
	if i < len(os.Args) {
		return os.Args[i]
	}
	return ""
}

// demo shows the whole sequence, from an open server to a clean one.
func demo(ctx context.Context, out io.Writer) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if err := mountHosts(); err != nil {
		return err
	}
	w, err := newWorld(story{out, end})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("ended early: %w", context.Cause(ctx)) // not the errors that this causes
		}
		err = errors.Join(err, w.close())
	}()

	w.say("Two throwaway hosts: a server, and an attacker that has every address below.")
	if err := w.build(ctx); err != nil {
		return err
	}
	w.show(fmt.Sprintf("server   %s, %s: open ports %v", serverAddr(false), serverAddr(true), ports()))
	for _, v := range visitors() {
		w.show(fmt.Sprintf("attacker %s (%s)", v.addr, v.why))
	}
	wrong := 0
	for _, s := range w.scenes(&wrong) {
		w.say(s.text)
		if err := s.play(ctx); err != nil {
			return err
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d knocks had a wrong result", wrong)
	}
	w.say("All results were right.")
	return nil
}

// scene is one step of the demo, after its text.
type scene struct {
	text string
	play func(context.Context) error
}

// scenes returns the steps in their order. They add the knocks with a wrong result to wrong.
func (w *world) scenes(wrong *int) []scene {
	knock := func(protected bool, times int) func(context.Context) error {
		return func(ctx context.Context) error {
			n, err := w.knock(ctx, protected, times)
			*wrong += n
			return err
		}
	}
	return []scene{
		{"Before SikkerGuard runs, every knock gets through:", knock(false, 1)},
		{
			"The agent starts. It needs an API key, and here the address of the simulator (list: " +
				"e2e/demo/blacklist.txt).",
			w.startAgent,
		},
		{
			"The attacker knocks again, five times on each port. Listed addresses get no answer, the others do:",
			knock(true, 5),
		},
		{"The packets that the agent logs as blocked, summed over ten seconds:", w.awaitBlocked},
		{"nft list table inet sikkerguard (element lists shortened):", w.showTable},
		{"curl localhost:8080/status:", w.showStatus},
		{"The agent is stopped with SIGTERM:", w.stopAgent},
		{
			"Nothing is left: `nft list ruleset` is as it was, and every knock gets through again:",
			func(ctx context.Context) error {
				if err := w.checkClean(ctx); err != nil {
					return err
				}
				return knock(false, 1)(ctx)
			},
		},
	}
}
