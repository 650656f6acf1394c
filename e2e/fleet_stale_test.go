//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
)

// state requests the list of a score until the answer has a status and comes from the expected
// place.
func (f fleet) state(t *testing.T, score, status int, cache string) (a answer) {
	t.Helper()
	defer func() { t.Logf("score %d: %d %s %s", score, a.status, a.header.Get("X-Cache-Status"), a.body) }()
	f.await(t, fmt.Sprintf("status %d, %s", status, cache), func() bool {
		a = f.pull(t, score)
		return a.status == status && a.header.Get("X-Cache-Status") == cache
	})
	return a
}

func (f fleet) pull(t *testing.T, score int) answer {
	t.Helper()
	return f.ask(t, http.MethodGet, fmt.Sprintf("%s?plaintext=true&scoreMinimum=%d", blacklistPath, score), testKey, "")
}

// tried returns the number of requests to the API, with or without an answer.
func (f fleet) tried() (n int) {
	f.net.change(func(net *fleetNet) { n = len(net.names) })
	return n
}

// TestFleetErrors has a fleet pull while the API is down, its quota used up, or the key refused.
// The API gets one request.
func TestFleetErrors(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "200 1s;", fleetErrors)
	f.start(t)
	for i, tt := range []struct {
		name   string
		fault  apisim.Fault // with a status of 0 the API closes the connection
		status int          // status that the fleet gets
		cache  string
	}{
		{"quota spent", apisim.Fault{Status: 429, RetryAfter: 40_000}, 200, "STALE"},
		{"broken", apisim.Fault{Status: 500}, 200, "STALE"},
		{"down", apisim.Fault{Status: 503}, 200, "STALE"},
		{"no answer", apisim.Fault{}, 200, "STALE"},
		{"key invalid", apisim.Fault{Status: 401}, 401, "EXPIRED"},
		{"key disabled", apisim.Fault{Status: 403}, 403, "EXPIRED"},
	} {
		score := 50 + i // another query, another list
		if a := f.pull(t, score); a.status != 200 {
			t.Fatalf("%s: the first pull: %d %s", tt.name, a.status, a.body)
		}
		before := f.tried()
		tt.fault.Path = blacklistPath
		if err := f.api.SetFault(tt.fault); err != nil {
			t.Fatal(err)
		}
		f.net.change(func(n *fleetNet) { n.hangUp = tt.fault.Status == 0 })
		f.state(t, score, tt.status, tt.cache)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 20 {
					a := f.pull(t, score)
					updating := a.header.Get("X-Cache-Status") == "UPDATING" // another host asks at this moment
					if a.status != tt.status && !updating || a.status == 200 &&
						!strings.Contains(a.body, "203.0.113.9\n") {
						t.Errorf("%s: %d %s", tt.name, a.status, a.body)
					}
				}
			})
		}
		wg.Wait()
		if n := f.tried() - before; n != 1 {
			t.Errorf("%s: the API got %d requests for 200 pulls, want one", tt.name, n)
		}
		f.api.ClearFaults()
		f.net.change(func(n *fleetNet) { n.hangUp = false })
	}
}

// TestFleetWithoutList starts a fleet while the quota is used up. The API gets one request, and
// each host is told when to come back.
func TestFleetWithoutList(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetLists, fleetErrors)
	f.start(t)
	if err := f.api.SetFault(apisim.Fault{Path: blacklistPath, Status: 429, RetryAfter: 40_000}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := f.pull(t, 50); a.status != 429 || a.header.Get("Retry-After") != "40000" {
				t.Errorf("pull: %d %v %s", a.status, a.header, a.body)
			}
		})
	}
	wg.Wait()
	if n := f.tried(); n != 1 {
		t.Errorf("the API got %d requests, want one", n)
	}
}

// TestFleetStale checks that an old list is the answer for so long and no longer, and a fresh one
// as soon as there is one. A list that is cut short is never stored.
func TestFleetStale(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "200 1s;", "504 1s;")
	f.start(t)
	if err := f.api.SetFault(apisim.Fault{Path: blacklistPath, Truncate: 20, Times: 1}); err != nil {
		t.Fatal(err)
	}
	f.state(t, 50, 200, "HIT")
	if err := f.api.SetFault(apisim.Fault{Path: blacklistPath, Status: 429, RetryAfter: 40_000}); err != nil {
		t.Fatal(err)
	}
	f.state(t, 50, 200, "STALE")
	f.age(t, 25*time.Hour)
	f.state(t, 50, 200, "STALE")
	f.age(t, 27*time.Hour)
	if a := f.state(t, 50, 429, "MISS"); a.header.Get("Retry-After") != "40000" {
		t.Errorf("after the last list is too old: %v", a.header)
	}
	f.api.ClearFaults()
	f.state(t, 50, 200, "HIT")
}

// age sets the age of the lists that the proxy stores, and runs the daily clean-up of systemd with
// the file of the commands of the page.
func (f fleet) age(t *testing.T, age time.Duration) {
	t.Helper()
	cache := filepath.Join(f.dir, "root/var/lib/nginx/sikkerguard")
	files, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the cache is empty: %v", err)
	}
	then := time.Now().Add(-age)
	for _, file := range files {
		if err := os.Chtimes(file, time.Now(), then); err != nil { // read all the time
			t.Fatal(err)
		}
	}
	conf := filepath.Join(f.dir, "root/etc/tmpfiles.d/sikkerguard.conf")
	script := `mount --bind "$1" /var/lib/nginx && systemd-tmpfiles --clean "$2"`
	f.ns.Run("unshare", "--mount", "bash", "-euc", script, "bash", filepath.Dir(cache), conf)
}

// TestFleetNames starts the proxy while DNS does not answer, and moves the API to another address.
func TestFleetNames(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "200 1s;", "504 1s;")
	f.net.change(func(n *fleetNet) { n.addr = netip.Addr{} })
	f.start(t)
	f.net.change(func(n *fleetNet) { n.addr = netip.MustParseAddr("192.0.2.80") })
	f.state(t, 50, 200, "HIT")
	f.net.change(func(n *fleetNet) { n.addr = netip.MustParseAddr("192.0.2.81") })
	moved := func() (moved bool) {
		f.net.change(func(n *fleetNet) { moved = n.asked[netip.MustParseAddr("192.0.2.81")] })
		return moved
	}
	f.await(t, "the API's new address", func() bool {
		f.pull(t, 50)
		return moved()
	})
}
