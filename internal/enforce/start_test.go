package enforce

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// slowHost is a host with one check, of a gateway, that takes time. It fails if the kernel blocks an
// address at its end, and after a second if nothing answers.
type slowHost struct {
	Host

	k      *counting
	needs  string        // address without which the check gets no answer
	takes  time.Duration // until the answer
	silent bool          // there is no answer
	tunnel bool          // answers come in the datagrams of a tunnel
	names  time.Duration // for which Names waits

	mu    sync.Mutex
	begun int // checks
	ended int
}

const gateway = "gateway 192.0.2.77"

func (h *slowHost) Local() host.Whitelist { return host.Whitelist{} }

func (h *slowHost) Names(ctx context.Context) host.Whitelist {
	select {
	case <-time.After(h.names):
	case <-ctx.Done():
	}
	return host.Whitelist{}
}

func (*slowHost) Surroundings() (contained, bridged error) { return nil, nil }

func (*slowHost) Resolved(time.Time) host.Names { return host.Names{} }

func (*slowHost) AnsweredFrom(uint16) bool { return false }

func (*slowHost) CheckNames() []string { return []string{gateway} }

func (h *slowHost) Probe(ctx context.Context, names ...string) host.Checks {
	if len(names) > 0 && !slices.Contains(names, gateway) {
		return nil
	}
	h.mu.Lock()
	h.begun++
	h.mu.Unlock()
	c := host.Check{Name: gateway}
	takes := h.takes
	if h.silent {
		takes = time.Second
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	if h.silent || h.needs != "" && h.k.drops(h.needs) {
		c.Err, c.Tunnelled = errors.New("no answer"), h.tunnel
	}
	h.mu.Lock()
	h.ended++
	h.mu.Unlock()
	return host.Checks{c}
}

// probes returns the numbers of checks that have begun and ended.
func (h *slowHost) probes() (begun, ended int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun, h.ended
}

// counting is a kernel that counts the rulesets that it was given.
type counting struct {
	fragile

	applied int   // guarded by mu
	refusal error // of every ruleset; nil for none
}

func (c *counting) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if c.refusal != nil {
		return ruleset.Evidence{}, c.refusal
	}
	ev, err := c.fragile.Apply(ctx, rs)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied++
	return ev, err
}

func (c *counting) applies() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

// starting returns an Enforcer with a saved list of the feed one, whose pull waits until pullC is
// closed. h replaces its host.
func starting(t *testing.T, h *slowHost, saved ...string) (
	e *Enforcer, k *counting, logs *zapobserver.ObservedLogs, pullC chan struct{},
) {
	t.Helper()
	dir := feed.NewDir(t.TempDir(), nil)
	f := &textFeed{name: "one", text: strings.Join(saved, "\n")}
	if len(saved) > 0 {
		var ps []string
		for _, s := range saved {
			ps = append(ps, s+"/32")
		}
		if err := feed.NewSaved(dir, f.name, f).Save(listOf(ps...), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	e, logs = newEnforcer(t)
	pullC = make(chan struct{})
	f.set(f.text, nil, pullC)
	e.o.StateDir, e.remotes = dir, nil
	e.remotes = append(e.remotes, e.newRemote(Remote{Feed: f, Saved: feed.NewSaved(dir, f.name, f)}))
	k = &counting{}
	h.k, e.backend.fw, e.o.Host = k, k, h
	return e, k, logs, pullC
}

// line runs the loop of e and its surveys until the test calls stop.
func line(t *testing.T, e *Enforcer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error, 2)
	go func() { doneC <- e.Run(ctx) }()
	go func() { doneC <- e.Survey(ctx) }()
	return func() {
		cancel()
		for range 2 {
			if err := <-doneC; err != nil {
				t.Error(err)
			}
		}
		settle(e)
	}
}

// TestFirstRulesWaitForNoProbe: a gateway that never answers, a DNS that hangs and an API that hangs
// delay neither the rules of the saved list nor the line of a start that has ended: all are active
// before any check has returned.
func TestFirstRulesWaitForNoProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{silent: true, names: 10 * time.Second}
		e, k, logs, pullC := starting(t, h, "203.0.113.1")
		began := time.Now()
		stop := line(t, e)
		<-e.ReadyC()
		synctest.Wait()
		if begun, ended := h.probes(); begun == 0 || ended != 0 || !k.drops("203.0.113.1") || time.Since(began) > baselineGrace {
			t.Errorf("after %v: %d checks have begun, %d have returned, blocked: %v",
				time.Since(began), begun, ended, k.drops("203.0.113.1"))
		}
		var lines []string
		for _, l := range logs.All() {
			if l.Level >= 0 { // not of debugging
				lines = append(lines, l.Message)
			}
		}
		want := []string{
			"Enforcing the saved list until the API answers", "Safety whitelist: 0 IPs + 0 CIDR ranges",
			"Whitelisted: nothing", "Firewall ready", "Blocking 1 IPs", "Monitoring blocked connections",
			"SikkerGuard running",
		}
		if !slices.Equal(lines, want) {
			t.Errorf("the log is\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		close(pullC)
		stop()
	})
}

// TestSilentGatewayCostsNoTrial: a gateway that never answers is not blamed on the list, whatever
// listed sources send at that time. Their packets cannot be answers of that gateway.
func TestSilentGatewayCostsNoTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, _, pullC := starting(t, &slowHost{silent: true}, "203.0.113.1", "203.0.113.2")
		stop := line(t, e)
		<-e.ReadyC()
		for range 10 {
			for _, k := range []sensor.Key{
				{Port: 22, Protocol: sensor.TCP, Kind: sensor.Attempt},
				{Port: 53000, Protocol: sensor.UDP, Kind: sensor.Attempt},
				{Port: 443, Protocol: sensor.TCP, Kind: sensor.Answer},
			} {
				k.Source = netip.MustParseAddr("203.0.113.1")
				e.Add(sensor.Window{Hits: []sensor.Hit{{Packets: 1, Key: k}}}, time.Now())
			}
			time.Sleep(time.Second)
		}
		if n := k.applies(); n != 1 {
			t.Errorf("rules were applied %d times, want once", n)
		}
		close(pullC)
		stop()
	})
}

// TestLateCheckIsNotCutOff: a check that takes longer than the first rules is cut off by a listed
// address. Its packets are dropped, so that address is let through, and no other one.
func TestLateCheckIsNotCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{needs: "203.0.113.1", takes: 2 * baselineGrace, tunnel: true}
		e, k, _, pullC := starting(t, h, "203.0.113.1", "203.0.113.2", "203.0.113.3")
		stop := line(t, e)
		<-e.ReadyC()
		synctest.Wait()
		wantDropped(t, &k.fragile, true, "203.0.113.1")
		for range 20 { // datagrams of a tunnel, and others
			hits := []sensor.Hit{{Packets: 1, Key: sensor.Key{
				Source: netip.MustParseAddr("203.0.113.3"), Port: 53000, Protocol: sensor.UDP, Kind: sensor.Attempt,
			}}}
			if k.drops("203.0.113.1") {
				hits = append(hits, sensor.Hit{Packets: 1, Key: sensor.Key{
					Source: netip.MustParseAddr("203.0.113.1"), Port: 51820, Protocol: sensor.UDP, Kind: sensor.Attempt,
				}})
			}
			e.Add(sensor.Window{Hits: hits}, time.Now())
			time.Sleep(time.Second)
		}
		wantDropped(t, &k.fragile, false, "203.0.113.1")
		wantDropped(t, &k.fragile, true, "203.0.113.2", "203.0.113.3")
		if s := e.o.Board.Latest(); !s.Holds(status.CondExempt) || s.State != status.StateDegraded && s.State != status.StateActive {
			t.Errorf("status: %s %v", s.State, s.Conditions)
		}
		close(pullC)
		stop()
	})
}

// TestLateCheckThatFailsAtOnce: a check fails within milliseconds, because a resolver nearby knows that
// it does not reach its upstream. The event of a dropped packet takes longer.
func TestLateCheckThatFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{needs: "203.0.113.1", takes: 2 * baselineGrace, tunnel: true}
		e, k, _, pullC := starting(t, h, "203.0.113.1", "203.0.113.2")
		stop := line(t, e)
		<-e.ReadyC()
		time.Sleep(2 * time.Second)
		e.Add(sensor.Window{Hits: []sensor.Hit{{Packets: 1, Key: sensor.Key{
			Source: netip.MustParseAddr("203.0.113.1"), Port: 443, Protocol: sensor.TCP, Kind: sensor.Answer,
		}}}}, time.Now())
		time.Sleep(20 * time.Second)
		wantDropped(t, &k.fragile, false, "203.0.113.1")
		wantDropped(t, &k.fragile, true, "203.0.113.2")
		close(pullC)
		stop()
	})
}

// TestLateChecksEndWithAFailedApply: rules that the kernel refuses have no late checks, so no sources
// are stored for them.
func TestLateChecksEndWithAFailedApply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, _, _ := starting(t, &slowHost{silent: true}, "203.0.113.1")
		e.surveys.publish(survey{})
		k.refusal = errors.New("no memory")
		e.restoreAll(t.Context())
		l := &e.trials.late
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open || e.active.rules != nil {
			t.Errorf("stores sources: %v, rules are active: %v", l.open, e.active.rules != nil)
		}
	})
}

// TestFirstRulesAreJudgedByEarlyChecks: a check that has worked before the first rules and fails
// with them has the list rolled back, as with every later list.
func TestFirstRulesAreJudgedByEarlyChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{needs: "203.0.113.1"}
		e, k, _, _ := starting(t, h, "203.0.113.1", "203.0.113.2")
		e.surveys.publish(survey{})
		e.beginBaseline(t.Context())
		synctest.Wait()
		e.restoreAll(t.Context())
		if wantDropped(t, &k.fragile, false, "203.0.113.1"); e.o.Board.Latest().Rollbacks != 1 {
			t.Errorf("%d rollbacks, want 1", e.o.Board.Latest().Rollbacks)
		}
	})
}

// TestFirstPullIsJudged: the checks of a host without a saved list are made during the first pull,
// not after it. Those that worked judge the list.
func TestFirstPullIsJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{needs: "203.0.113.1", takes: 100 * time.Millisecond}
		e, k, _, pullC := starting(t, h)
		e.remotes[0].feed.(*textFeed).set("203.0.113.1\n203.0.113.2\n", nil, pullC)
		stop := line(t, e)
		time.Sleep(surveyGap + surveyGap/2)
		if begun, ended := h.probes(); begun == 0 || begun != ended {
			t.Errorf("during the pull %d checks have begun, %d have ended", begun, ended)
		}
		close(pullC)
		time.Sleep(10 * time.Second)
		if wantDropped(t, &k.fragile, false, "203.0.113.1"); e.o.Board.Latest().Rollbacks != 1 {
			t.Errorf("%d rollbacks, want 1", e.o.Board.Latest().Rollbacks)
		}
		stop()
	})
}

// TestNoListIsACondition: until the first pull of a host without a saved list has ended, a condition
// says so. Then there is a list, or the condition of a failed refresh.
func TestNoListIsACondition(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		saved  []string
		err    error
		before []status.Code
		after  []status.Code
	}{
		"OK pulled":       {nil, nil, []status.Code{status.CondNoList}, nil},
		"OK saved":        {[]string{"203.0.113.1"}, nil, nil, nil},
		"bad not reached": {nil, errors.New("503"), []status.Code{status.CondNoList}, []status.Code{status.CondRefresh}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, _, _, pullC := starting(t, &slowHost{}, tt.saved...)
				e.remotes[0].feed.(*textFeed).set("203.0.113.1\n", tt.err, pullC)
				stop := line(t, e)
				<-e.ReadyC()
				expect := func(when string, want []status.Code) {
					t.Helper()
					var got []status.Code
					for _, c := range e.o.Board.Latest().Conditions {
						got = append(got, c.Code)
					}
					if !slices.Equal(got, want) {
						t.Errorf("%s: %v, want %v", when, got, want)
					}
				}
				expect("before the pull has ended", tt.before)
				close(pullC)
				time.Sleep(2 * surveyGap)
				expect("afterwards", tt.after)
				stop()
			})
		})
	}
}

// TestLateChecksKnowAnswers checks which dropped packets may be answers to a check, or carry one
// through a tunnel.
func TestLateChecksKnowAnswers(t *testing.T) {
	t.Parallel()
	hit := func(addr string, p sensor.Protocol, k sensor.Kind, port uint16) sensor.Hit {
		return sensor.Hit{
			Key: sensor.Key{Source: netip.MustParseAddr(addr), Protocol: p, Kind: k, Port: port}, Packets: 1,
		}
	}
	const icmp, esp = sensor.Protocol(1), sensor.Protocol(50)
	hits := []sensor.Hit{
		hit("203.0.113.1", sensor.TCP, sensor.Attempt, 22),
		hit("203.0.113.2", sensor.TCP, sensor.Answer, 443),
		hit("203.0.113.3", sensor.UDP, sensor.Attempt, 51820),
		hit("203.0.113.4", icmp, sensor.Attempt, 0),
		hit("203.0.113.5", esp, sensor.Other, 0),
		hit("203.0.113.6", sensor.TCP, sensor.Answer, 80), // from a port that this host does not need
		hit("203.0.113.2", sensor.TCP, sensor.Answer, 443),
		hit("198.51.100.1", sensor.TCP, sensor.Answer, 443), // not on the list any more
		hit("203.0.113.7", sensor.UDP, sensor.Other, 4500),  // IPsec
	}
	needed := func(port uint16) bool { return port == 443 }
	list := listOf("203.0.113.0/24")
	direct, tunnelled := host.Checks{{Name: "API"}}, host.Checks{{Name: "API"}, {Name: gateway, Tunnelled: true}}
	throughResolver := host.Checks{{Name: "resolver 127.0.0.1", Relayed: true}}
	var l lateChecks
	expect := func(when string, checks host.Checks, want ...string) {
		t.Helper()
		var got []string
		for _, a := range l.candidates(checks, list) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	l.add(hits, needed)
	expect("before the first rules", tunnelled)
	l.begin()
	l.add(hits, needed)
	expect("direct", direct, "203.0.113.2", "203.0.113.5", "203.0.113.7")
	expect("tunnelled", tunnelled, "203.0.113.2", "203.0.113.3", "203.0.113.5", "203.0.113.6", "203.0.113.7")
	expect("through a resolver", throughResolver, "203.0.113.2", "203.0.113.5", "203.0.113.6", "203.0.113.7")
	expect("without a check", nil)
	for i := range 2 * maxCandidates {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}).String()
		l.add([]sensor.Hit{
			hit(addr, sensor.UDP, sensor.Attempt, 51820), hit(addr, sensor.TCP, sensor.Answer, 443),
		}, needed)
	}
	l.add([]sensor.Hit{hit("203.0.113.254", sensor.TCP, sensor.Answer, 1194)}, needed)
	if got := l.candidates(tunnelled, list); len(got) != maxCandidates ||
		!slices.Contains(got, netip.MustParseAddr("203.0.113.254")) {
		t.Errorf("%d candidates of a flood, want %d with 203.0.113.254: %v", len(got), maxCandidates, got)
	}
	l.end()
	expect("afterwards", tunnelled)
}

// TestBaseline checks which checks count for the first rules: one that worked, one that failed, one
// without a result, and one that failed too long ago.
func TestBaseline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b baseline
		if _, _, ok := b.known([]string{"a"}); ok {
			t.Error("checks are known before any was made")
		}
		slowC := make(chan struct{})
		check := func(name string) host.Checks {
			switch name {
			case "bad":
				return host.Checks{{Name: name, Err: errors.New("no answer")}}
			case "slow":
				<-slowC
			}
			return host.Checks{{Name: name}}
		}
		names := []string{"good", "bad", "slow"}
		b.begin(func() []string { return names }, check)
		expect := func(when string, wantWorked, wantLate []string) {
			t.Helper()
			synctest.Wait()
			worked, late, ok := b.known(append(names, "new"))
			var got []string
			for _, c := range worked {
				got = append(got, c.Name)
			}
			if !ok || !slices.Equal(got, wantWorked) || !slices.Equal(late, wantLate) {
				t.Errorf("%s: worked %v, late %v, known %v; want %v and %v", when, got, late, ok, wantWorked, wantLate)
			}
		}
		expect("at once", []string{"good"}, []string{"slow", "new"})
		time.Sleep(failedFor + time.Second)
		expect("later", []string{"good"}, []string{"bad", "slow", "new"})
		b.begin(func() []string { return []string{"bad"} }, check)
		expect("made again", []string{"good"}, []string{"slow", "new"})
		b.reset()
		close(slowC)
		synctest.Wait()
		if worked, _, ok := b.known(names); ok || len(worked) != 0 {
			t.Errorf("after a reset: %v", worked)
		}
	})
}
