package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func open(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	s := store.New(store.Options{Dir: dir, Damaged: func(d *store.DamagedError) { tb.Errorf("set aside: %v", d) }})
	if err := s.Open(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func hit(source string, port uint16, service string, packets uint64) store.Hit {
	return store.Hit{Source: netip.MustParseAddr(source), Protocol: 6, Port: port, Service: service, Packets: packets}
}

func row(source, service string, packets uint64, first, last time.Time, ports ...uint16) reportrow.Row {
	return reportrow.Row{
		Source: netip.MustParseAddr(source), Service: service, Packets: packets, Ports: ports, First: first, Last: last,
	}
}

func opts() []cmp.Option {
	return []cmp.Option{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}
}

func add(tb testing.TB, s *store.Store, at time.Time, hits ...store.Hit) {
	tb.Helper()
	if err := s.Add(tb.Context(), store.Record{From: at, To: at, Hits: hits, Report: true}); err != nil {
		tb.Fatal(err)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	later := noon.Add(time.Minute)
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5), hit("203.0.113.9", 2222, "ssh", 1),
		hit("2001:db8::1", 80, "http", 7))
	add(t, s, later, hit("203.0.113.9", 22, "ssh", 4), hit("203.0.113.9", 4444, "", 1), hit("203.0.113.9", 0, "", 2))

	got, err := s.Batch(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []reportrow.Row{
		row("203.0.113.9", "ssh", 10, noon, later, 22, 2222),
		row("2001:db8::1", "http", 7, noon, noon, 80),
	}
	if diff := cmp.Diff(want, got, opts()...); diff != "" {
		t.Errorf("batch (-want +got):\n%s", diff)
	}
	// Hits added while the batch is in flight wait for the next batch. The batch itself does not
	// change, in this process or in the next.
	add(t, s, later, hit("203.0.113.9", 22, "ssh", 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got, err = s.Batch(t.Context(), 100); err != nil || !cmp.Equal(want, got, opts()...) {
		t.Errorf("batch after a restart: %v, %v", got, err)
	}
	if err := s.Done(t.Context(), 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	want = []reportrow.Row{
		row("203.0.113.9", "ssh", 100, later, later, 22),
		row("203.0.113.9", "", 3, later, later, 4444),
	}
	if got, err = s.Batch(t.Context(), 100); err != nil || !cmp.Equal(want, got, opts()...) {
		t.Errorf("next batch: %v, %v", got, err)
	}
	// A returned batch is merged with the hits added meanwhile.
	add(t, s, later, hit("203.0.113.9", 22, "ssh", 1))
	if err := s.Return(t.Context()); err != nil {
		t.Fatal(err)
	}
	want[0].Packets++
	if got, err = s.Batch(t.Context(), 100); err != nil || !cmp.Equal(want, got, opts()...) {
		t.Errorf("returned batch: %v, %v", got, err)
	}
	totals, err := s.Totals(t.Context())
	if diff := cmp.Diff(store.Totals{Sent: 1, Rejected: 1}, totals); err != nil || diff != "" {
		t.Errorf("totals (-want +got):\n%s%v", diff, err)
	}
	if err := s.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Queued(t.Context()); n != 0 || err != nil {
		t.Errorf("queued after forgetting: %d, %v", n, err)
	}
}

// TestPortsOfARow checks that the ports of a row are in the order in which they came, each once, and
// at most MaxPorts.
func TestPortsOfARow(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	want := []uint16{2222, 22, 2}
	add(t, s, noon, hit("203.0.113.9", 2222, "ssh", 1), hit("203.0.113.9", 22, "ssh", 1))
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 1), hit("203.0.113.9", 0, "ssh", 1), hit("203.0.113.9", 2, "ssh", 1))
	for port := range uint16(50) {
		add(t, s, noon, hit("203.0.113.9", 1000+port, "ssh", 1))
		if len(want) < reportrow.MaxPorts {
			want = append(want, 1000+port)
		}
	}
	got, err := s.Batch(t.Context(), 10)
	if err != nil || len(got) != 1 || got[0].Packets != 55 {
		t.Fatalf("batch %+v, %v; want one row of 55 packets", got, err)
	}
	if diff := cmp.Diff(want, got[0].Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if err := s.Done(t.Context(), 0, 0, got); err != nil { // again: with all of its ports
		t.Fatal(err)
	}
	again, err := s.Batch(t.Context(), 10)
	if diff := cmp.Diff(got, again, opts()...); err != nil || diff != "" {
		t.Errorf("returned (-want +got):\n%s%v", diff, err)
	}
}

// TestAddIsCheap checks that a record of many hits takes few statements: no goroutine for each, and
// a few allocations a hit.
func TestAddIsCheap(t *testing.T) {
	s := open(t, t.TempDir())
	const n = 1000
	hits := make([]store.Hit, n)
	for i := range hits {
		hits[i] = hit(netip.AddrFrom4([4]byte{5, 0, byte(i >> 8), byte(i)}).String(), 22, "ssh", 1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	created := func() uint64 {
		sample := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	const runs = 5
	before := created()
	allocations := testing.AllocsPerRun(runs, func() {
		err := s.Add(ctx, store.Record{
			From: noon, To: noon, Hits: hits, Report: true, Counters: &store.Counters{Packets4: n},
		})
		if err != nil {
			t.Error(err)
		}
	})
	if most := 15.0 * n; allocations > most {
		t.Errorf("a record of %d hits took %.0f allocations, want at most %.0f", n, allocations, most)
	}
	if goroutines := created() - before; goroutines > n/10 {
		t.Errorf("%d records of %d hits began %d goroutines, want a few a record", runs+1, n, goroutines)
	}
}

func TestAddWithoutReporting(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	if err := s.Add(t.Context(), store.Record{
		From: noon, To: noon, Hits: []store.Hit{hit("203.0.113.9", 22, "ssh", 5)}, Report: false,
	}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Queued(t.Context()); n != 0 || err != nil {
		t.Errorf("queued: %d, %v", n, err)
	}
}

// TestDamaged damages the file in several ways that disks do. It is set aside, and a new one works.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func([]byte) []byte{
		"bad garbage": func([]byte) []byte {
			return []byte("this is no database, and it is long enough to be looked at as one: " + fmt.Sprint(noon))
		},
		"bad pages gone": func(raw []byte) []byte { return raw[:len(raw)/2] },
		"bad page zeroed": func(raw []byte) []byte {
			clear(raw[4096:8192])
			return raw
		},
	} {
		dir := t.TempDir()
		s := open(t, dir)
		add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "sikkerguard.db")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, spoil(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *store.DamagedError
		s = store.New(store.Options{Dir: dir, Damaged: func(d *store.DamagedError) { damaged = d }})
		if err := s.Open(t.Context()); err != nil || damaged == nil {
			t.Errorf("%s: got %v and %v, want a new store and a report that the old one was set aside",
				name, err, damaged)
			continue
		}
		if _, err := os.Stat(damaged.Aside); err != nil {
			t.Errorf("%s: not set aside: %v", name, err)
		}
		add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5))
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAgain checks that rows to be sent again go back into the queue.
func TestAgain(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	later := noon.Add(time.Minute)
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5))
	add(t, s, later, hit("203.0.113.9", 22, "ssh", 5))
	got, err := s.Batch(t.Context(), 10)
	want := []reportrow.Row{row("203.0.113.9", "ssh", 10, noon, later, 22)}
	if diff := cmp.Diff(want, got, opts()...); err != nil || diff != "" {
		t.Fatalf("batch (-want +got):\n%s%v", diff, err)
	}
	add(t, s, later, hit("203.0.113.9", 80, "http", 1), hit("203.0.113.9", 22, "ssh", 1),
		hit("203.0.113.10", 22, "ssh", 50))
	if err := s.Done(t.Context(), 0, 0, got); err != nil {
		t.Fatal(err)
	}
	got, err = s.Batch(t.Context(), 10)
	want = []reportrow.Row{
		row("203.0.113.10", "ssh", 50, later, later, 22), row("203.0.113.9", "ssh", 11, noon, later, 22),
		row("203.0.113.9", "http", 1, later, later, 80),
	}
	if diff := cmp.Diff(want, got, opts()...); err != nil || diff != "" {
		t.Errorf("rows to send again are not merged (-want +got):\n%s%v", diff, err)
	}
}

// TestHeld checks that hits that waited for a proof are not added to the history again, and that
// their report has the times of their packets.
func TestHeld(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	first, last := noon.Add(-time.Minute), noon.Add(-time.Second)
	h := hit("203.0.113.9", 22, "ssh", 5)
	h.First, h.Last = first, last
	silent, held := h, h
	silent.Silent, held.Held = true, true
	add(t, s, noon, silent)
	if n, err := s.Queued(t.Context()); err != nil || n != 0 {
		t.Errorf("%d rows are queued, %v; want none", n, err)
	}
	add(t, s, noon, held)
	got, err := s.Batch(t.Context(), 10)
	want := []reportrow.Row{row("203.0.113.9", "ssh", 5, first, last, 22)}
	if diff := cmp.Diff(want, got, opts()...); err != nil || diff != "" {
		t.Errorf("batch (-want +got):\n%s%v", diff, err)
	}
}

// TestClockAheadSendsRows checks that rows recorded while the clock was years ahead are sent after
// it was corrected.
func TestClockAheadSendsRows(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	add(t, s, time.Now().AddDate(10, 0, 0), hit("203.0.113.9", 22, "ssh", 5))
	if got, err := s.Batch(t.Context(), 10); err != nil || len(got) != 1 {
		t.Errorf("batch %v, %v; want the row", got, err)
	}
}

// TestNewerSchema checks that a database of a newer version is left unchanged.
func TestNewerSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "sikkerguard.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = db.ExecContext(t.Context(), "PRAGMA user_version = 99"); errors.Join(err, db.Close()) != nil {
		t.Fatal(err)
	}
	s = store.New(store.Options{Dir: dir, Damaged: func(d *store.DamagedError) { t.Errorf("set aside: %v", d) }})
	if err := s.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "run the newer SikkerGuard") {
		t.Errorf("got %v", err)
	}
}

// TestWithdraw checks that the rows of a source are deleted from the queue, in flight or not.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5), hit("203.0.113.9", 80, "http", 3),
		hit("203.0.113.10", 22, "ssh", 1))
	if _, err := s.Batch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddr("203.0.113.9")
	if n, err := s.Withdraw(t.Context(), func(a netip.Addr) bool { return a == gone }); n != 2 || err != nil {
		t.Errorf("withdrawn: %d, %v; want 2", n, err)
	}
	if left, err := s.Batch(t.Context(), 10); err != nil || len(left) != 1 || left[0].Source == gone {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// TestOpenErrors checks that errors other than damage set no good database aside.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sikkerguard.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{filepath.Join(file, "state"), dir} {
		s := store.New(store.Options{Dir: d, Damaged: func(d *store.DamagedError) { t.Errorf("set aside: %v", d) }})
		if err := s.Open(t.Context()); err == nil {
			t.Errorf("%s: no error", d)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "sikkerguard.db")); err != nil {
		t.Errorf("set aside: %v", err)
	}
}

// TestFullDisk fills a disk of its own. Add returns an error while the disk is full and succeeds
// once it has room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		nettest.Skip(t, "a disk of the test's own needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("sikkerguard-test", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	t.Cleanup(func() { _ = s.Close() })
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	var failed error
	for i := range 200 { // the files have some room
		var hits []store.Hit
		for j := range 50 {
			hits = append(hits, hit(netip.AddrFrom4([4]byte{6, 0, byte(i), byte(j)}).String(), 22, "ssh", 1))
		}
		if failed = s.Add(t.Context(), store.Record{From: noon, To: noon, Hits: hits, Report: true}); failed != nil {
			break
		}
	}
	if failed == nil {
		t.Error("a full disk is no error")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	add(t, s, noon, hit("203.0.113.9", 22, "ssh", 5))
	top, err := s.Batch(t.Context(), 1)
	if err != nil || len(top) != 1 || top[0].Packets != 10 {
		t.Errorf("after it was full: %+v, %v", top, err)
	}
}

// TestCounters checks that the stored counters survive a restart.
func TestCounters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	if c, err := s.Counters(t.Context()); err != nil || c != (store.Counters{}) {
		t.Errorf("at first: %+v, %v", c, err)
	}
	want := store.Counters{
		Packets4: 1, Bytes4: 2, Packets6: 3, Bytes6: 1 << 40, Raw: [4]uint64{1, 2, 3, 4}, Running: true,
	}
	for range 2 {
		if err := s.Add(t.Context(), store.Record{Counters: &want}); err != nil {
			t.Fatal(err)
		}
		want.Packets4++
	}
	want.Packets4--
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := open(t, dir).Counters(t.Context()); err != nil || c != want {
		t.Errorf("after a restart: %+v, %v; want %+v", c, err, want)
	}
}
