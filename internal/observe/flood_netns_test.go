package observe

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/deliver"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

const (
	logGroup = 100
	logRate  = 10_000
	slice    = 20_000 // packets of a flood in a row
)

// line is the whole line from the kernel to the history: the rules, the listener, the observer, the
// recorder and the database.
type line struct {
	*nettest.Host
	t        *testing.T
	fw       firewall.Backend
	sensor   *sensor.Sensor
	observer *Observer
	book     *book
	logs     *zapobserver.ObservedLogs
	recorder *deliver.Recorder
	dir      string
	endRun   func()
	sent     map[netip.Addr]uint64
}

// newLine returns a line whose rules block these entries.
func newLine(t *testing.T, block ...string) *line {
	t.Helper()
	core, logs := zapobserver.New(zap.InfoLevel)
	l := &line{
		Host: nettest.NewHost(t), t: t, book: &book{}, logs: logs, sent: map[netip.Addr]uint64{}, dir: t.TempDir(),
		sensor: sensor.New(sensor.Options{Group: logGroup}),
	}
	// Another program counts the packets before the agent's rules see them: under a flood the kernel
	// may lose packets earlier.
	l.Run("nft", `
		add table inet truth
		add counter inet truth arrived
		add chain inet truth c { type filter hook prerouting priority -350; }
		add rule inet truth c ip saddr 45.0.0.0/8 counter name arrived`)
	l.do(func() (err error) {
		l.fw, err = firewall.Open(firewall.Options{Backend: firewall.NFTables, LogRate: logRate})
		return err
	})
	t.Cleanup(func() { _ = l.fw.Close() })
	l.do(l.sensor.Open)
	t.Cleanup(func() { _ = l.sensor.Close() })
	if err := l.apply(block...); err != nil {
		t.Fatal(err)
	}
	ledger := counters.New(counters.Options{
		Kernel: l.fw.Counters,
		Stored: func(context.Context) (store.Counters, error) { return store.Counters{}, nil },
	})
	l.do(func() error { _, err := ledger.Read(); return err })
	db := store.New(store.Options{Dir: l.dir})
	l.recorder = deliver.NewRecorder(deliver.RecorderOptions{
		Database: db, Ledger: unsavedLedger{}, Allowlist: none{}, PortName: portName, Log: zap.NewNop(),
		Board: status.New(status.Options{Clock: clock.System()}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		if err := l.recorder.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	l.endRun = func() { cancel(); <-doneC; _ = db.Close() }
	t.Cleanup(l.endRun)
	l.observer = New(Options{
		Sensor: l.sensor, Counter: ledger, Keys: l.fw, Sinks: []Sink{l.book, l.recorder}, PortName: portName,
		LogRate: logRate, Fields: true, Unread: func(error) {}, Log: zap.New(core),
	})
	return l
}

// unsavedLedger is a ledger without sums to save.
type unsavedLedger struct{}

func (unsavedLedger) Load(context.Context) error   { return nil }
func (unsavedLedger) Changed() bool                { return false }
func (unsavedLedger) Unsaved(bool) *store.Counters { return nil }
func (unsavedLedger) Saved(*store.Counters)        {}

// none is an empty allowlist.
type none struct{}

func (none) Allows(netip.Addr) bool { return false }

// do runs f in the namespace of the server.
func (l *line) do(f func() error) {
	l.t.Helper()
	var err error
	if l.Do(func() { err = f() }); err != nil {
		l.t.Fatal(err)
	}
}

// apply replaces the list.
func (l *line) apply(block ...string) (err error) {
	l.t.Helper()
	var entries []netip.Prefix
	for _, b := range block {
		entries = append(entries, netip.MustParsePrefix(b))
	}
	l.Do(func() {
		_, err = l.fw.Apply(l.t.Context(), ruleset.Ruleset{
			Block: blocklist.New(entries), LogGroup: logGroup, LogRate: logRate,
		})
	})
	return err
}

// during collects each second, and ends a window every ten, while f runs.
func (l *line) during(f func()) {
	l.t.Helper()
	doneC := make(chan struct{})
	go func() { defer close(doneC); f() }()
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-doneC:
			return
		case <-ticker.C:
		}
		l.Do(func() {
			if l.observer.collect(false); n%10 == 0 {
				l.observer.finish(false)
			}
		})
	}
}

// end ends the line and returns the status.
func (l *line) end() (s status.Status) {
	l.t.Helper()
	l.Settle() // every packet has been dropped
	l.Do(func() { l.observer.finish(false) })
	l.do(l.fw.Remove)
	l.Do(func() {
		l.observer.Finish()
		l.observer.Fill(&s)
	})
	l.endRun()
	l.recorder.Fill(&s)
	return s
}

// flood sends n packets, from each of the sources in turn.
func (l *line) flood(sources []netip.Addr, port uint16, n int) {
	l.Sender.FloodFrom(sources, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), n)
	for i := range n {
		l.sent[sources[i%len(sources)]]++
	}
}

// arrived returns the packets that arrived.
func (l *line) arrived() uint64 {
	l.t.Helper()
	text := l.Run("nft", "list counter inet truth arrived")
	n, err := strconv.ParseUint(regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(text)[1], 10, 64)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// history returns the packets in the database by source.
func (l *line) history() map[netip.Addr]uint64 {
	l.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(l.dir, "sikkerguard.db"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(l.t.Context(), "SELECT source, sum(packets) FROM hits GROUP BY source")
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	by := map[netip.Addr]uint64{}
	for rows.Next() {
		var raw []byte
		var n uint64
		if err := rows.Scan(&raw, &n); err != nil {
			l.t.Fatal(err)
		}
		src, _ := netip.AddrFromSlice(raw)
		by[src] = n
	}
	if err := rows.Err(); err != nil {
		l.t.Fatal(err)
	}
	return by
}

// check compares the history and the sums of the status with the packets that were sent, if all of
// them arrived, or with the number of those that did.
func (l *line) check(when string, s status.Status) {
	l.t.Helper()
	got, arrived := l.history(), l.arrived()
	var sent, sum uint64
	for _, n := range l.sent {
		sent += n
	}
	for src, n := range l.sent {
		sum += got[src]
		if got[src] == 0 || got[src] > n || got[src] != n && sent == arrived {
			l.t.Errorf("%s: %v sent %d packets and has %d in the history", when, src, n, got[src])
		}
	}
	if len(got) != len(l.sent) || sum != arrived {
		l.t.Errorf("%s: %d sources of %d and %d packets of %d are in the history", when, len(got), len(l.sent), sum, arrived)
	}
	if e := s.Events; e.Dropped != arrived || e.Seen != arrived ||
		e.Lost+e.Unattributed+e.Overflow+s.Unattributed+s.Unrecorded != 0 {
		l.t.Errorf("%s: %d packets of %d arrived: %+v, %d not attributed, %d not recorded",
			when, arrived, sent, e, s.Unattributed, s.Unrecorded)
	}
}

// TestFloods floods the real kernel from 1, 1,000 and 50,000 sources. Each of them and each of 100
// quiet sources is in the history with each of its packets.
func TestFloods(t *testing.T) {
	t.Parallel()
	const packets = 400_000
	quiet := make([]netip.Addr, 100)
	for i := range quiet {
		quiet[i] = netip.AddrFrom4([4]byte{45, 10, 0, byte(i)})
	}
	for _, n := range []int{1, 1_000, 50_000} {
		l := newLine(t, "45.9.0.0/16", "45.10.0.0/24")
		noisy := make([]netip.Addr, n)
		for i := range noisy {
			noisy[i] = netip.AddrFrom4([4]byte{45, 9, byte(i >> 8), byte(i)})
		}
		l.during(func() {
			for i := range packets / slice {
				from := i * slice % n
				l.flood(noisy[from:min(n, from+slice)], 22, slice)
				l.flood(quiet, 23, len(quiet))
			}
		})
		when := fmt.Sprintf("%d sources", n)
		l.check(when, l.end())
		if n > 1 { // more lines than a window has
			continue
		}
		named := map[any]bool{}
		for _, line := range l.logs.FilterMessageSnippet(":23 (telnet)").All() {
			named[line.ContextMap()["source"]] = true
		}
		if len(named) < maxLines-1 {
			t.Errorf("%s: %d of the quiet sources are named", when, len(named))
		}
		if l.logs.FilterLevelExact(zap.WarnLevel).Len() > 0 {
			t.Errorf("%s: %v", when, l.logs.FilterLevelExact(zap.WarnLevel).All())
		}
	}
}

// TestSumsAreExactOverChanges changes the list under traffic. Each packet dropped is in the hits.
func TestSumsAreExactOverChanges(t *testing.T) {
	t.Parallel()
	l := newLine(t, "45.9.0.0/16")
	sources := make([]netip.Addr, 300)
	for i := range sources {
		sources[i] = netip.AddrFrom4([4]byte{45, 9, byte(i >> 8), byte(i)})
	}
	stopC := make(chan struct{})
	go func() {
		defer close(stopC)
		for i := range 20 {
			if err := l.apply("45.9.0.0/16", netip.PrefixFrom(source(i), 32).String()); err != nil {
				t.Error(err)
			}
		}
	}()
	l.during(func() {
		for more := true; more; {
			l.flood(sources, 22, slice)
			select {
			case <-stopC:
				more = false
			default:
			}
		}
	})
	l.check("after 20 changes", l.end())
}

// TestFullSets sends a packet from each of more sources than the kernel's sets hold. What it counts
// by source and what it does not are together the packets dropped, and the log says so.
func TestFullSets(t *testing.T) {
	t.Parallel()
	l := newLine(t, "45.8.0.0/14")
	sources := make([]netip.Addr, 200_000)
	for i := range sources {
		sources[i] = netip.AddrFrom4([4]byte{45, 8 + byte(i>>16), byte(i >> 8), byte(i)})
	}
	l.during(func() { l.flood(sources, 22, len(sources)) })
	s, arrived := l.end(), l.arrived()
	var sum uint64
	for _, n := range l.history() {
		sum += n
	}
	if s.Reports == nil {
		t.Fatal("the database did not answer")
	}
	e := s.Events
	if e.Dropped != arrived || e.Seen+e.Unattributed != arrived || e.Unattributed > s.Unattributed || e.Unattributed == 0 {
		t.Errorf("%d packets arrived: %+v, %d not attributed", arrived, e, s.Unattributed)
	}
	if sum+s.Unrecorded+s.Reports.Unkept != e.Seen {
		t.Errorf("%d packets are in the history, %d not recorded, %d not kept; %d were seen",
			sum, s.Unrecorded, s.Reports.Unkept, e.Seen)
	}
	for _, text := range []string{"was counted by source", "than the kernel counts apart"} {
		if l.logs.FilterMessageSnippet(text).Len() == 0 {
			t.Errorf("the log does not say %q", text)
		}
	}
}
