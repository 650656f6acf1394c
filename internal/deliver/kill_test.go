package deliver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// deliverEnv makes the test binary a process that records and reports until it is killed: state
// directory, API, number of its first source, and the step of delivery after which it kills itself,
// 0 for none.
const deliverEnv = "SIKKERGUARD_TEST_DELIVER"

// perBatch is the number of sources that this process records at a time.
const perBatch = 3

// recordAndReport records sources one after the other and reports them. It prints the number of the
// next source after the sources before it are recorded.
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
	d := &deadly{queue: queue{Store: s, allowlist: &allowlist{}}, api: client}
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
		if err := s.Add(ctx, store.Record{From: time.Now(), To: time.Now(), Hits: hits, Report: true}); err != nil {
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

// steps is the number of steps of two deliveries.
const steps = 2 * 7

// deadly is the queue and the API of a process that kills itself between two steps.
type deadly struct {
	queue queue
	api   *sikkerapi.Client
	left  int
}

// step ends a step. After the last one it kills the process.
func (d *deadly) step() {
	if d.left--; d.left == 0 {
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (d *deadly) Queued(ctx context.Context) (int, error) { return d.queue.Queued(ctx) }

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

func (d *deadly) Done(ctx context.Context, accepted, rejected int, again []report.Row) error {
	d.step()
	defer d.step()
	return d.queue.Done(ctx, accepted, rejected, again)
}

func (d *deadly) Status(ctx context.Context) (sikkerapi.Status, error) { return d.api.Status(ctx) }

func (d *deadly) Return(ctx context.Context) error { return d.queue.Return(ctx) }

func source(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 45<<24+n)))
}

// TestKilledInDelivery kills a reporting process between every two steps of delivery, and a hundred
// times at random moments. It checks that every recorded source is reported, and that each kill
// repeats at most one batch, without a change.
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
			t.Fatalf("the process that dies after step %d recorded nothing", step)
		}
	}
	random := 100
	if testing.Short() {
		random = 10
	}
	for range random {
		kill(0, time.Duration(20+rand.IntN(280))*time.Millisecond)
	}
	deliverRest(t, dir, url)
	// Each source is in one batch. After a kill the same batch may be sent again.
	batch := map[netip.Addr]string{}
	repeats, last := 0, ""
	for _, body := range sim.batches() {
		var sent struct{ Reports []struct{ IP netip.Addr } }
		if err := json.Unmarshal([]byte(body), &sent); err != nil {
			t.Fatal(err)
		}
		for _, row := range sent.Reports {
			if old, ok := batch[row.IP]; ok && old != body {
				t.Errorf("%v was sent in one batch and again in another:\n%s%s", row.IP, old, body)
			}
			batch[row.IP] = body
		}
		if body == last {
			repeats++
		}
		last = body
	}
	for n := range recorded {
		if batch[source(n)] == "" {
			t.Errorf("source %d was recorded and not reported", n)
		}
	}
	if repeats > random+steps {
		t.Errorf("%d batches were sent again after %d kills", repeats, random+steps)
	}
	if repeats == 0 {
		t.Error("no batch was sent again, so no kill came between an answer of the API and its record")
	}
	t.Logf("%d sources recorded, %d batches sent again", recorded, repeats)
}

// patience is far longer than the life of a process that kills itself.
const patience = time.Minute

// listening is an API simulator that keeps each batch that it receives.
type listening struct {
	mu     sync.Mutex
	bodies []string
}

func (l *listening) batches() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.bodies)
}

func killSim(t *testing.T) (*listening, string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sim, err := apisim.New(apisim.Options{List: list, Key: "sk_test_kill", Tier: "large"})
	if err != nil {
		t.Fatal(err)
	}
	l := &listening{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				return // the client was killed
			}
			l.mu.Lock()
			l.bodies = append(l.bodies, string(raw))
			l.mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(raw))
		}
		sim.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return l, srv.URL
}

// deliverRest reports all rows that are left, without a kill.
func deliverRest(t *testing.T, dir, url string) {
	t.Helper()
	s := store.New(store.Options{Dir: dir})
	defer func() { _ = s.Close() }()
	client, err := sikkerapi.New("sk_test_kill", sikkerapi.WithBaseURL(url))
	if err != nil {
		t.Fatal(err)
	}
	r := report.New(report.Options{Queue: queue{Store: s, allowlist: &allowlist{}}, API: client})
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

// runAndKill runs the process, kills it after a time, and returns the number of the next source
// that it printed last.
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
			t.Fatalf("the process printed %q", lines.Text())
		}
		recorded = n
	}
	_ = cmd.Wait() // killed
	return recorded
}
