package measure

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Variants of a flood.
const (
	Quiet    = "100 quiet sources beside one that floods"
	Noisy    = "the source that floods"
	ManyFrom = "flood of 50,000 sources"
)

const (
	quietSources = 100
	manySources  = 50_000
)

// flood measures which share of a flood the history has: of one source beside quiet ones, and of
// many sources.
func (b *Bench) flood(ctx context.Context) error {
	l := lists.New(lists.Addresses, false, 2*manySources, 1)
	from := l.Listed(manySources)
	one := []stream{
		{Noisy, from[:1], b.Plan.FloodRate}, {Quiet, from[1 : 1+quietSources], quietSources},
	}
	if err := b.floodCase(ctx, l, one); err != nil {
		return fmt.Errorf("%s: %w", Quiet, err)
	}
	if err := b.floodCase(ctx, l, []stream{{ManyFrom, from, b.Plan.FloodRate}}); err != nil {
		return fmt.Errorf("%s: %w", ManyFrom, err)
	}
	return nil
}

// stream is the packets of a flood from some sources, in turn.
type stream struct {
	variant string
	sources []netip.Addr
	rate    int // packets a second of all sources
}

// floodCase sends the streams at the same time, stops the agent and reads its history.
func (b *Bench) floodCase(ctx context.Context, l *lists.List, streams []stream) (err error) {
	s, err := b.newSite(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := b.startAgent(ctx, s, l, lab.Others()); err != nil {
		return err
	}
	before, err := lab.CPUTime(s.agent.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	sent, err := sendAll(s.Host, streams, b.Plan.Flood)
	if err != nil {
		return err
	}
	took := time.Since(start)
	after, err := lab.CPUTime(s.agent.PID())
	if err != nil {
		return err
	}
	if err := s.agent.Stop(); err != nil {
		return err
	}
	history, err := readHistory(ctx, s.stateDir)
	if err != nil {
		return err
	}
	for i, st := range streams {
		c := result.Case{Family: 4, Entries: len(st.sources), Variant: st.variant}
		found, packets := 0, 0
		for _, a := range st.sources {
			if n := history[a]; n > 0 {
				found, packets = found+1, packets+n
			}
		}
		for m, v := range map[result.Measure]float64{
			result.Sources: 100 * float64(found) / float64(min(sent[i], len(st.sources))),
			result.Counted: 100 * float64(packets) / float64(sent[i]),
			result.Rate:    float64(sent[i]) / took.Seconds(),
		} {
			c.Measure = m
			b.add(c, result.Agent, v)
		}
		if i == 0 {
			c.Measure = result.CPU
			b.add(c, result.Agent, 100*(after-before).Seconds()/took.Seconds())
		}
		b.logf("   %s: %d of %d sources, %d of %d packets in the history", st.variant, found, len(st.sources), packets,
			sent[i])
	}
	return nil
}

// sendAll sends the streams at the same time, and returns the number of packets of each.
func sendAll(h *lab.Host, streams []stream, d time.Duration) ([]int, error) {
	sent, errs := make([]int, len(streams)), make([]error, len(streams))
	var wg sync.WaitGroup
	for i, st := range streams {
		burst, err := h.NewBurst(lab.SYN, st.sources)
		if err != nil {
			return nil, err
		}
		defer func() { _ = burst.Close() }()
		wg.Go(func() { sent[i], errs[i] = burst.Paced(st.rate, d) })
	}
	wg.Wait()
	return sent, errors.Join(errs...)
}

// readHistory returns the packets of each source in the database of a stopped agent.
func readHistory(ctx context.Context, stateDir string) (map[netip.Addr]int, error) {
	const query = "SELECT hex(source), sum(packets) FROM hits GROUP BY source"
	out, err := exec.CommandContext(ctx, "sqlite3", "-readonly", "-separator", " ", lab.Database(stateDir),
		query).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("read history: %w: %.500s", err, out)
	}
	return parseHistory(string(out))
}

func parseHistory(text string) (map[netip.Addr]int, error) {
	all := map[netip.Addr]int{}
	for line := range strings.Lines(text) {
		source, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		raw, err := hex.DecodeString(source)
		a, ok := netip.AddrFromSlice(raw)
		n, nerr := strconv.Atoi(count)
		if err != nil || nerr != nil || !ok {
			return nil, fmt.Errorf("read history: bad line %q", line)
		}
		all[a.Unmap()] = n
	}
	return all, nil
}
