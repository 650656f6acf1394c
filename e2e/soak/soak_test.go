//go:build e2e_soak

package soak

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	// promise is the longest time for which a source that the host has begun to need may be
	// dropped: files are checked twice a second, changes settle for a quarter of a second, surveys
	// are up to ten seconds apart, and the agent may be asleep.
	promise = 15 * time.Second
	// settles is the longest time for which a link that came up may itself lose packets.
	settles = 3 * time.Second
	// judgeAfter is the age at which a packet is judged. Everything that matters for it is known by
	// then.
	judgeAfter = 5 * time.Second
	// logAfter is the time from an event until the log is read: the reader of the log may be stuck.
	logAfter = 40 * time.Second
	// recovery is the longest time from the last trouble until the agent is active.
	recovery = 90 * time.Second
)

// TestSoak runs for SOAK while troubles occur, and fails with a line for each broken promise.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(cmpOr(os.Getenv("SOAK"), "20m"))
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SOAK=%v SEED=%d", length, seed)
	nettest.New(t) // skips or fails before anything is built
	s := newSoak(t, seed)
	s.agent.start()
	s.awaitState("active", 30*time.Second)
	s.traffic.run(s)
	s.makeTrouble(length)
	s.finish()
}

func cmpOr(text, other string) string {
	if text != "" {
		return text
	}
	return other
}

// soak is one run.
type soak struct {
	t       *testing.T
	began   time.Time
	rng     *rand.Rand // used only by makeTrouble
	host    *world
	agent   *agent
	traffic *traffic
	watch   *watch

	mu      sync.Mutex
	busy    map[string]bool // groups of troubles under way
	tallies map[string]*tally
	current map[string]time.Time // troubles under way, or over for less than promise; zero while under way
	broken  []*breach
	checks  []check
	wg      sync.WaitGroup
}

// check is a check that runs later.
type check struct {
	due time.Time
	at  func()
}

// later calls f after logAfter, or at the end of the run.
func (s *soak) later(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{time.Now().Add(logAfter), f})
}

// runChecks runs the checks that are due.
func (s *soak) runChecks(now time.Time) {
	s.mu.Lock()
	var due []check
	s.checks = slices.DeleteFunc(s.checks, func(l check) bool {
		if !l.due.After(now) {
			due = append(due, l)
		}
		return !l.due.After(now)
	})
	s.mu.Unlock()
	for _, l := range due {
		l.at()
	}
}

// tally is the effects of a kind of trouble.
type tally struct {
	times, passed, lost int
	longest             time.Duration // longest loss of a source that must not be dropped
	longestAt           time.Time
	away                time.Duration // time in which the agent was not active
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-race", "-o", bin+"/", "../../cmd/sikkerguard")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s := &soak{
		t: t, began: time.Now(), rng: rand.New(rand.NewPCG(seed, 12)),
		busy: map[string]bool{}, tallies: map[string]*tally{}, current: map[string]time.Time{},
	}
	s.host = newWorld(t, rand.New(rand.NewPCG(seed, 13)))
	s.agent = newAgent(s, filepath.Join(bin, "sikkerguard"))
	s.watch = newWatch(s)
	s.traffic = newTraffic(s)
	return s
}

// makeTrouble begins a trouble every few seconds, at most one of a group at a time. It ends early
// if the run is interrupted, so that the rest of it can clean up.
func (s *soak) makeTrouble(length time.Duration) {
	ctx, stop := signal.NotifyContext(s.t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all := troubles()
	for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
		tr := all[s.rng.IntN(len(all))]
		d := time.Second + time.Duration(s.rng.Int64N(int64(tr.most)))
		pick := rand.New(rand.NewPCG(s.rng.Uint64(), 0))
		if s.begin(tr) {
			s.note("%s for %v", tr.name, d.Round(100*time.Millisecond))
			s.wg.Go(func() {
				tr.run(s, pick, d)
				s.end(tr)
			})
		}
		time.Sleep(time.Second + time.Duration(s.rng.Int64N(int64(4*time.Second))))
	}
	s.wg.Wait()
	s.note("no more troubles")
}

func (s *soak) begin(tr trouble) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[tr.group] {
		return false
	}
	s.busy[tr.group] = true
	if s.tallies[tr.name] == nil {
		s.tallies[tr.name] = &tally{}
	}
	s.tallies[tr.name].times++
	s.current[tr.name] = time.Time{}
	return true
}

func (s *soak) end(tr trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[tr.group] = false
	s.current[tr.name] = time.Now()
}

// blame adds to the tallies of the troubles that were under way at a time.
func (s *soak) blame(at time.Time, add func(*tally)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, ended := range s.current {
		if ended.IsZero() || ended.Add(2*time.Second).After(at) {
			add(s.tallies[name])
		}
	}
}

// under returns the names of the troubles that were under way shortly before a time.
func (s *soak) under(at time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, ended := range s.current {
		if ended.IsZero() || ended.Add(promise).After(at) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return cmpOr(strings.Join(names, ", "), "no trouble")
}

// breaks records a broken promise. If the same one is broken again within a few seconds, it is
// counted.
func (s *soak) breaks(at time.Time, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	under := s.under(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.broken {
		if b.text == text && at.Sub(b.last).Abs() < 5*time.Second {
			b.times++
			b.last = at
			return
		}
	}
	b := &breach{text: text, first: at, last: at, times: 1, under: under}
	s.broken = append(s.broken, b)
	s.t.Errorf("BROKEN: %s", b.line(s.began))
}

// breach is a broken promise.
type breach struct {
	text, under string // under: the troubles of that time
	first, last time.Time
	times       int
}

func (b *breach) line(began time.Time) string {
	line := fmt.Sprintf("%s after %v, during %s", b.text, b.first.Sub(began).Round(10*time.Millisecond), b.under)
	if b.times > 1 {
		line += fmt.Sprintf("; %d times within %v", b.times, b.last.Sub(b.first).Round(10*time.Millisecond))
	}
	return line
}

// note writes a line of the run.
func (s *soak) note(format string, args ...any) {
	s.t.Logf("%8.2fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *soak) awaitState(want string, most time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(most); ; time.Sleep(100 * time.Millisecond) {
		p := s.watch.newest()
		if p.state == want {
			return
		}
		if time.Now().After(end) {
			s.breaks(time.Now(), "the agent is %q (%s) %v later, not %s", p.state, p.reason, most, want)
			return
		}
	}
}

// finish ends the run: the agent becomes active and stops.
func (s *soak) finish() {
	s.agent.signalHUP()
	s.awaitState("active", recovery)
	time.Sleep(judgeAfter + 2*time.Second)
	s.traffic.stop()
	s.watch.stop()
	rss := s.agent.rss()
	s.agent.stop()
	s.runChecks(time.Now().Add(2 * logAfter))
	if left := s.host.server.Run("nft", "list", "ruleset"); strings.Contains(left, "sikkerguard") {
		s.breaks(time.Now(), "rules are left behind:\n%s", left)
	}
	s.report(rss)
}

// report prints the summary.
func (s *soak) report(rss string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s %5s %14s %12s %20s %12s\n", "trouble", "times", "listed passed", "others lost",
		"longest loss", "not active")
	for _, name := range slices.Sorted(maps.Keys(s.tallies)) {
		y := s.tallies[name]
		longest := "0s"
		if y.longest > 0 {
			longest = fmt.Sprintf("%v at %.0fs",
				y.longest.Round(10*time.Millisecond), y.longestAt.Sub(s.began).Seconds())
		}
		fmt.Fprintf(&b, "%-28s %5d %14d %12d %20s %12v\n",
			name, y.times, y.passed, y.lost, longest, y.away.Round(100*time.Millisecond))
	}
	fmt.Fprintf(&b,
		"(a packet counts for each trouble that was under way)\n%s\n"+
			"agents: %d; resident at the end: %s; promises broken: %d",
		s.traffic.totals(), s.agent.starts, rss, len(s.broken))
	for _, broken := range s.broken {
		b.WriteString("\n  " + broken.line(s.began))
	}
	s.t.Logf("summary\n%s", b.String())
}
