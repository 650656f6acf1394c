//go:build e2e_soak

package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
)

// trouble is one kind of trouble. At most one of a group is under way at a time.
type trouble struct {
	name, group string
	most        time.Duration // it lasts at least a second and at most a second more than this
	run         func(s *soak, rng *rand.Rand, d time.Duration)
}

func troubles() []trouble {
	return []trouble{
		{"link down", "network", 5 * time.Second, linkDown},
		{"carrier lost", "network", 5 * time.Second, carrierLost},
		{"another gateway", "network", 30 * time.Second, anotherGateway},
		{"routes flap", "network", 5 * time.Second, routesFlap},
		{"DNS dead", "DNS", 10 * time.Second, dnsDead},
		{"another resolver", "DNS", 30 * time.Second, anotherResolver},
		{"API down", "API", 10 * time.Second, apiDown},
		{"API wrong", "API", 10 * time.Second, apiWrong},
		{"another list", "list", time.Second, anotherList},
		{"SIGHUP", "list", time.Second, func(s *soak, _ *rand.Rand, _ time.Duration) { s.agent.signalHUP() }},
		{"disk full", "disk", 10 * time.Second, diskFull},
		{"disk hangs", "disk", 12 * time.Second, diskHangs},
		{"reader stuck", "reader", 15 * time.Second, readerStuck},
		{"connections", "connections", 5 * time.Second, connections},
		{"other rules", "rules", 5 * time.Second, otherRules},
		{"killed", "agent", 3 * time.Second, killed},
		{"reader gone", "agent", 5 * time.Second, readerGone},
		{"stopped", "agent", 3 * time.Second, stopped},
		{"asleep", "agent", 4 * time.Second, asleep},
		{"files from the future", "agent", time.Second, filesFromTheFuture},
	}
}

func linkDown(s *soak, _ *rand.Rand, d time.Duration) {
	end := s.traffic.outage("link down")
	s.host.server.Run("ip", "link", "set", "eth0", "down")
	time.Sleep(d)
	s.host.server.Run("ip", "link", "set", "eth0", "up")
	s.host.configure(0)
	end()
}

func carrierLost(s *soak, _ *rand.Rand, d time.Duration) {
	end := s.traffic.outage("carrier lost")
	s.host.hub.Run("ip", "link", "set", "server", "down")
	time.Sleep(d)
	s.host.hub.Run("ip", "link", "set", "server", "up")
	end()
}

func anotherGateway(s *soak, _ *rand.Rand, d time.Duration) {
	use := func(i int) {
		s.host.server.Run("ip", "route", "replace", "default", "via", gateways()[i])
		s.traffic.need(gateways(), i)
	}
	use(1)
	time.Sleep(d)
	use(0)
}

// routesFlap adds and deletes routes that are not default routes, like a routing daemon, and the
// default route.
func routesFlap(s *soak, rng *rand.Rand, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		s.host.server.Run("sh", "-c",
			fmt.Sprintf(`for i in $(seq 1 200); do echo "route replace 100.%d.$i.0/24 via %s"; done | ip -batch -`,
				rng.IntN(64)+64, gateways()[1]))
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		s.host.server.Run("ip", "route", "flush", "root", "100.64.0.0/10")
		s.host.server.Run("ip", "route", "add", "default", "via", gateways()[0], "metric", "100")
		s.host.server.Run("ip", "route", "del", "default", "via", gateways()[0], "metric", "100")
	}
}

func dnsDead(s *soak, _ *rand.Rand, d time.Duration) {
	for i := range s.host.dnsDead {
		s.host.dnsDead[i].Store(true)
		defer s.host.dnsDead[i].Store(false)
	}
	s.agent.signalHUP()
	time.Sleep(d)
}

func anotherResolver(s *soak, rng *rand.Rand, d time.Duration) {
	use := func(i int) {
		s.host.setResolver(i, rng.IntN(2) == 0)
		s.traffic.need(resolvers(), i)
	}
	use(1)
	time.Sleep(d)
	use(0)
}

func apiDown(s *soak, _ *rand.Rand, d time.Duration) {
	s.host.apiDown.Store(true)
	defer s.host.apiDown.Store(false)
	s.host.api.CloseClientConnections()
	s.agent.signalHUP()
	time.Sleep(d)
}

func apiWrong(s *soak, rng *rand.Rand, d time.Duration) {
	faults := []apisim.Fault{
		{Status: 500},
		{Status: 503, RetryAfter: 1},
		{Status: 429, RetryAfter: 2},
		{Status: 429},
		{Status: 403, Body: "html"},
		{Status: 304},
		{Body: "garbage"},
		{Body: "html"},
		{Body: "gzip-garbage"},
		{Body: "empty"},
		{Body: "huge"},
		{Truncate: 5000},
		{Truncate: 40_000, Hang: true},
		{Hang: true},
		{Delay: apisim.Duration(3 * time.Second)},
	}
	f := faults[rng.IntN(len(faults))]
	s.note("  fault %+v", f)
	if err := s.host.sim.SetFault(f); err != nil {
		s.t.Error(err)
	}
	s.agent.signalHUP()
	time.Sleep(d)
	s.host.sim.ClearFaults()
	s.agent.signalHUP()
}

func anotherList(s *soak, _ *rand.Rand, _ time.Duration) {
	s.host.writeList()
	s.agent.signalHUP()
}

func diskFull(s *soak, _ *rand.Rand, d time.Duration) {
	file := filepath.Join(s.host.disk, "filler")
	f, err := os.Create(file)
	if err == nil {
		block := make([]byte, 1<<16)
		for err == nil {
			_, err = f.Write(block)
		}
		err = errors.Join(f.Close(), ignore(err, unix.ENOSPC))
	}
	if err != nil {
		s.t.Errorf("fill the disk: %v", err)
	}
	time.Sleep(d)
	if err := os.Remove(file); err != nil {
		s.t.Error(err)
	}
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func diskHangs(s *soak, _ *rand.Rand, d time.Duration) {
	if err := s.host.freeze(true); err != nil {
		s.t.Errorf("freeze: %v", err)
		return
	}
	time.Sleep(d)
	if err := s.host.freeze(false); err != nil {
		s.t.Errorf("thaw: %v", err)
	}
}

func readerStuck(s *soak, _ *rand.Rand, d time.Duration) {
	s.agent.held.Lock()
	defer s.agent.held.Unlock()
	time.Sleep(d)
}

// readerGone ends the reader of the log. The agent continues; its log has a reader again after its
// next start.
func readerGone(s *soak, rng *rand.Rand, d time.Duration) {
	s.agent.lose()
	s.agent.signalHUP()
	time.Sleep(d)
	s.agent.end(syscall.SIGTERM)
	s.agent.restart(rng.IntN(2) == 0)
}

// connections opens connections to the health port that send nothing.
func connections(s *soak, _ *rand.Rand, d time.Duration) {
	s.host.server.Run("sh", "-c", fmt.Sprintf(
		`for i in $(seq 1 20); do timeout %d bash -c 'for j in $(seq 1 40); do `+
			`eval "exec $((j+10))<>/dev/tcp/127.0.0.1/8080"; done; sleep 60' 2>/dev/null & done; wait`,
		int(d.Seconds())+1))
}

// otherRules has another program change a table of its own, and try to change ours, which the
// kernel refuses.
func otherRules(s *soak, rng *rand.Rand, d time.Duration) {
	for _, try := range []string{
		"flush ruleset", "delete table inet sikkerguard", "flush chain inet sikkerguard prerouting",
		"add table inet sikkerguard { flags dormant; }",
		"flush set inet sikkerguard blocklist4_32", "insert rule inet sikkerguard prerouting accept",
	} {
		if s.agent.owns() {
			s.host.server.Run("sh", "-c", "nft '"+try+"' 2>/dev/null || true")
		}
	}
	name := fmt.Sprintf("other%d", rng.IntN(10))
	s.host.server.Run("nft",
		fmt.Sprintf("add table inet %s; add chain inet %s c { type filter hook input priority 0; }; "+
			"add rule inet %s c ip saddr 192.0.2.77 drop", name, name, name))
	time.Sleep(d)
	s.host.server.Run("sh", "-c", "nft delete table inet "+name+" 2>/dev/null || true")
}

// killed kills the agent and restarts it after a while. Meanwhile another program may change the
// rules that it left.
func killed(s *soak, rng *rand.Rand, d time.Duration) {
	kept := s.agent.keep && s.watch.newest().protects()
	if kept {
		s.traffic.keeps()
	}
	s.agent.end(syscall.SIGKILL)
	if kept && rng.IntN(2) == 0 {
		touches := []string{
			"add set inet sikkerguard theirs { type ipv4_addr; }; " +
				"add chain inet sikkerguard evil { type filter hook input priority 0; }; " +
				"add rule inet sikkerguard evil ip saddr @theirs drop",
			"add counter inet sikkerguard theirs; add map inet sikkerguard m { type ipv4_addr : verdict; }; " +
				"add element inet sikkerguard m { 192.0.2.9 : jump blocked4 }",
			"add chain inet sikkerguard evil; add rule inet sikkerguard evil ip saddr @blocklist4_32 counter",
			"add set inet sikkerguard blocklist4_32_grown { type ipv6_addr; size 8; }",
		}
		s.host.server.Run("nft", touches[rng.IntN(len(touches))])
	}
	time.Sleep(d)
	s.agent.restart(rng.IntN(2) == 0)
}

// stopped stops the agent like a service manager and restarts it.
func stopped(s *soak, rng *rand.Rand, d time.Duration) {
	began := time.Now()
	s.agent.end(syscall.SIGTERM)
	if took := time.Since(began); took > 30*time.Second {
		s.breaks(began, "the agent took %v to stop", took)
	}
	time.Sleep(d)
	s.agent.restart(rng.IntN(2) == 0)
}

// asleep keeps the agent from running; its rules stay active.
func asleep(s *soak, _ *rand.Rand, d time.Duration) {
	s.agent.signal(syscall.SIGSTOP)
	time.Sleep(d)
	s.agent.signal(syscall.SIGCONT)
}

// filesFromTheFuture changes the times of files, as if the clock of the previous run had been ahead
// or behind.
func filesFromTheFuture(s *soak, rng *rand.Rand, _ time.Duration) {
	s.agent.end(syscall.SIGTERM)
	at := time.Now().Add(time.Duration(rng.IntN(20_000)-10_000) * time.Hour)
	files, err := filepath.Glob(filepath.Join(s.host.disk, "state", "*"))
	for _, f := range files {
		err = errors.Join(err, ignore(os.Chtimes(f, at, at), os.ErrNotExist))
	}
	if err != nil {
		s.t.Error(err)
	}
	s.agent.restart(rng.IntN(2) == 0)
}
