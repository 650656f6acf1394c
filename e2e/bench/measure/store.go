package measure

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// store runs the benchmark of the store: the time to record a hit in SQLite.
func (b *Bench) store(ctx context.Context) error {
	for range b.Plan.StoreRounds {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkAdd$", "-benchtime", "1x",
			"./internal/store")
		cmd.Dir = b.Root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("run the benchmark of the store: %w: %s", err, out)
		}
		ns, err := perHit(string(out))
		if err != nil {
			return err
		}
		b.add(result.Case{Measure: result.Record}, result.Agent, ns/1000)
	}
	return nil
}

// perHit returns the time for a hit in the output of the benchmark, in ns.
func perHit(out string) (float64, error) {
	m := regexp.MustCompile(`\s([\d.e+]+) ns/hit`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no time for a hit in the benchmark's output: %s", out)
	}
	return strconv.ParseFloat(m[1], 64)
}
