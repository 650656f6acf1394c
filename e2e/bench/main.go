// Command bench measures SikkerGuard and its peers on throwaway hosts, which are network namespaces
// on this machine, and writes docs/performance.md with its tables and plots, and the figures beside
// it as JSON.
//
// It is run by `make bench`, as root, from the root of the repository. It is a module of its own,
// so that its dependencies are not those of the product.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/bench/measure"
	"github.com/sikkerapi/sikkerguard/e2e/bench/page"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := listenForEnd()
	defer stop()
	err := bench(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && os.Getenv(insideEnv) == "" {
		return max(1, ended.ExitCode()) // it has printed the reason
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	default:
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
}

// options are the arguments of the command.
type options struct {
	root, agent, plan, out, only string
	pageOnly                     bool
}

func bench(ctx context.Context, args []string, out, usage io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	var o options
	flags.StringVar(&o.root, "root", ".", "root of the repository")
	flags.StringVar(&o.agent, "agent", "bin/sikkerguard", "the built agent")
	flags.StringVar(&o.plan, "plan", "full", "full, quick or tiny (whose figures mean nothing)")
	flags.StringVar(&o.only, "only", "", "parts to measure, separated by commas; the page has no others then")
	flags.StringVar(&o.out, "out", "docs", "directory of performance.md, performance.json and the plots")
	flags.BoolVar(&o.pageOnly, "page", false, "measure nothing; write the page from the figures")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	figures := filepath.Join(o.out, page.Figures)
	if o.pageOnly {
		r, err := result.Read(figures)
		if err != nil {
			return err
		}
		return page.Write(o.root, o.out, r)
	}
	if os.Getenv(insideEnv) == "" {
		return contain(ctx)
	}
	r, err := measureAll(ctx, o, out)
	if err != nil && r != nil {
		// An hour of figures is not lost with a part that fails.
		return errors.Join(err, save(figures+".partial", r))
	}
	if err != nil {
		return err
	}
	if err := save(figures, r); err != nil {
		return err
	}
	return page.Write(o.root, o.out, r)
}

// save writes the figures into a file.
func save(path string, r *result.Result) error {
	raw, err := r.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

// measureAll returns the figures of a run. If a part fails, it returns those that it has.
func measureAll(ctx context.Context, o options, out io.Writer) (r *result.Result, err error) {
	plans := map[string]func() measure.Plan{"full": measure.Full, "quick": measure.Quick, "tiny": measure.Tiny}
	plan, ok := plans[o.plan]
	if !ok {
		return nil, fmt.Errorf("unknown plan %q: want full, quick or tiny", o.plan)
	}
	dir, err := os.MkdirTemp("", "sikkerguard-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := useResolver(dir); err != nil {
		return nil, err
	}
	agent, err := filepath.Abs(o.agent)
	if err != nil {
		return nil, err
	}
	r = &result.Result{Time: time.Now().UTC().Truncate(time.Second), Plan: o.plan}
	if r.Machine, err = measure.Machine(ctx); err != nil {
		return nil, err
	}
	if r.Commit, err = measure.Commit(ctx, o.root); err != nil {
		return nil, err
	}
	var only []string
	if o.only != "" {
		only = strings.Split(o.only, ",")
	}
	b := &measure.Bench{Plan: plan(), Agent: agent, Dir: dir, Root: o.root, Log: out, Result: r}
	start := time.Now()
	err = b.Run(ctx, only)
	r.Took = time.Since(start).Round(time.Second).String()
	return r, err
}
