package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// deliverEnv makes the test binary a process that records and reports until it is killed: state directory, API, number of
// its first source, and the step of delivery after which it kills itself, 0 for none.
const deliverEnv = "SIKKERGUARD_TEST_DELIVER"

// perBatch is how many sources that process records at a time.
const perBatch = 3

// recordAndReport records sources one after the other and reports them. What it says was recorded has been.
func recordAndReport(args []string) error {
	var next uint32
	if _, err := fmt.Sscan(args[2], &next); err != nil {
		return err
	}
	ctx := context.Background()
	s := store.New(store.Options{Dir: args[0]})
	client, err := sikkerapi.New("sk_test_kill", sikkerapi.WithBaseURL(args[1]))
	if err != nil {
		return err
	}
	d := &deadly{queue: queue{s}, api: client}
	if _, err := fmt.Sscan(args[3], &d.left); err != nil {
		return err
	}
	r := report.New(report.Options{Queue: d, API: d})
	for {
		var hits []store.Hit
		for range perBatch {
			hits = append(hits, store.Hit{Source: source(next), Protocol: 6, Port: 22, Service: "ssh", Packets: 1})
			next++
		}
		if err := s.Add(ctx, time.Now(), time.Now(), hits, true); err != nil {
			return err
		}
		if _, err := fmt.Println(next); err != nil { //nolint:forbidigo // its parent reads it
			return err
		}
		d.step()
		if _, err := r.Deliver(ctx); err != nil {
			return err
		}
	}
}

// steps is how many there are, those of two deliveries.
const steps = 2 * 7

// deadly is the queue and the API of a process that kills itself between two steps.
type deadly struct {
	queue queue
	api   *sikkerapi.Client
	left  int
}

// step ends a step: the last one that there is to be, with the process.
func (d *deadly) step() {
	if d.left--; d.left == 0 {
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (d *deadly) Batch(ctx context.Context, most int) ([]report.Row, error) {
	d.step()
	defer d.step()
	return d.queue.Batch(ctx, most)
}

func (d *deadly) BulkReport(ctx context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	d.step()
	defer d.step()
	return d.api.BulkReport(ctx, rows)
}

func (d *deadly) Done(ctx context.Context, accepted, rejected int) error {
	d.step()
	defer d.step()
	return d.queue.Done(ctx, accepted, rejected)
}

func (d *deadly) Return(ctx context.Context) error { return d.queue.Return(ctx) }

func source(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 45<<24+n)))
}

// TestKilledInDelivery kills a process that reports: between every two steps of delivery, and a hundred times at random
// moments. Every source that it said was recorded is reported, and each kill has at most one batch reported twice.
func TestKilledInDelivery(t *testing.T) {
	if args := os.Getenv(deliverEnv); args != "" {
		if err := recordAndReport(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
	}
	t.Parallel()
	sim, url := killSim(t)
	dir, recorded := t.TempDir(), uint32(0)
	kill := func(step int, after time.Duration) {
		recorded = runAndKill(t, fmt.Sprint(dir, " ", url, " ", recorded, " ", step), recorded, after)
	}
	for step := 1; step <= steps; step++ {
		before := recorded
		kill(step, patience)
		if recorded == before {
			t.Fatalf("the process that was to die after step %d recorded nothing", step)
		}
	}
	const random = 100
	for range random {
		kill(0, time.Duration(20+rand.IntN(100))*time.Millisecond)
	}
	deliverRest(t, dir, url)
	times := map[netip.Addr]int{}
	for _, row := range sim.Reports() {
		times[row.IP]++
	}
	twice := 0
	for n := range recorded {
		if times[source(n)] == 0 {
			t.Errorf("source %d was recorded and not reported", n)
		}
		twice += max(0, times[source(n)]-1)
	}
	// What was recorded and not yet said so may be in a batch with the next: two records a batch.
	const kills = random + steps
	if twice > kills*2*perBatch {
		t.Errorf("%d rows were reported more than once after %d kills", twice, kills)
	}
	if twice == 0 {
		t.Error("no row was reported twice, so no kill came between the API's answer and its record")
	}
	t.Logf("%d sources recorded, %d rows reported twice", recorded, twice)
}

// patience is far longer than a process lives that kills itself.
const patience = time.Minute

// killSim is an API simulator.
func killSim(t *testing.T) (*apisim.Sim, string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sim, err := apisim.New(apisim.Options{List: list, Key: "sk_test_kill", Tier: "large"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	return sim, srv.URL
}

// deliverRest is a process that nobody kills: what is left is reported.
func deliverRest(t *testing.T, dir, url string) {
	t.Helper()
	s := store.New(store.Options{Dir: dir})
	defer func() { _ = s.Close() }()
	client, err := sikkerapi.New("sk_test_kill", sikkerapi.WithBaseURL(url))
	if err != nil {
		t.Fatal(err)
	}
	r := report.New(report.Options{Queue: queue{s}, API: client})
	for {
		out, err := r.Deliver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if out.Rows == 0 {
			return
		}
	}
}

// runAndKill runs the process for a while, and returns how many sources it said were recorded.
func runAndKill(t *testing.T, args string, recorded uint32, after time.Duration) uint32 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledInDelivery$")
	cmd.Env = append(os.Environ(), deliverEnv+"="+args)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var n uint32
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			t.Fatalf("the process says %q", lines.Text())
		}
		recorded = n
	}
	_ = cmd.Wait() // killed
	return recorded
}
