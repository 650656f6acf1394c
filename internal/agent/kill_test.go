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

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// deliverEnv makes the test binary a process that records and reports until it is killed: state directory, API and number
// of its first source.
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
	s, err := store.Open(ctx, args[0])
	if err != nil {
		return err
	}
	client, err := sikkerapi.New("sk_test_kill", sikkerapi.WithBaseURL(args[1]))
	if err != nil {
		return err
	}
	r := report.New(report.Options{Queue: queue{s}, API: client})
	for {
		var hits []store.Hit
		for range perBatch {
			hits = append(hits, store.Hit{Source: source(next), Protocol: 6, Port: 22, Service: "ssh", Packets: 1})
			next++
		}
		if err := s.Add(ctx, time.Now(), hits, true); err != nil {
			return err
		}
		if _, err := fmt.Println(next); err != nil { //nolint:forbidigo // its parent reads it
			return err
		}
		if _, err := r.Deliver(ctx); err != nil {
			return err
		}
	}
}

func source(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 45<<24+n)))
}

// TestKilledInDelivery kills a process that reports, a hundred times at random moments. Every source that it said was
// recorded is reported, and each kill has at most one batch reported twice.
func TestKilledInDelivery(t *testing.T) {
	if args := os.Getenv(deliverEnv); args != "" {
		if err := recordAndReport(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
	}
	t.Parallel()
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
	dir, recorded := t.TempDir(), uint32(0)
	const kills = 100
	for range kills {
		recorded = runAndKill(t, fmt.Sprint(dir, " ", srv.URL, " ", recorded), recorded)
	}
	// The last one is not killed: what is left is reported.
	s, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	client, err := sikkerapi.New("sk_test_kill", sikkerapi.WithBaseURL(srv.URL))
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
			break
		}
	}
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
	if twice > kills*2*perBatch {
		t.Errorf("%d rows were reported more than once after %d kills", twice, kills)
	}
	t.Logf("%d sources recorded, %d rows reported twice", recorded, twice)
}

// runAndKill runs the process for a moment, and returns how many sources it said were recorded.
func runAndKill(t *testing.T, args string, recorded uint32) uint32 {
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
	timer := time.AfterFunc(time.Duration(20+rand.IntN(100))*time.Millisecond, func() { _ = cmd.Process.Kill() })
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
