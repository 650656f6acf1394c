package enforce

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
)

// oneName resolves every name to one address; to none if that is invalid.
type oneName struct{ addr netip.Addr }

func (o oneName) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if !o.addr.IsValid() {
		return nil, errors.New("no resolver answers")
	}
	return []netip.Addr{o.addr}, nil
}

// TestStartWithoutDNSAllowsTheAPI: a start without DNS enforces the saved list, which contains the
// API. The address that an earlier run resolved is let through, unless its file is damaged or that
// run was a dry run.
func TestStartWithoutDNSAllowsTheAPI(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage bool
		vars   []string // of the run before
		blocks bool
	}{
		"OK":        {false, nil, false},
		"damaged":   {true, nil, true},
		"a dry run": {false, []string{"SIKKER_DRY_RUN=true"}, true},
	} {
		l := newLab(t, "203.0.113.50\n203.0.113.51\n")
		l.want(false, true, "Blocking 2 IPs")
		on := func(addr string) *host.Host {
			o := oneName{}
			if addr != "" {
				o.addr = netip.MustParseAddr(addr)
			}
			return host.New(host.Options{
				APIURL: &url.URL{Scheme: "https", Host: "api.example"}, Resolver: o, Root: t.TempDir(),
				Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
			})
		}
		l.restart(tt.vars...)
		l.a.o.Host = on("203.0.113.50")
		l.a.surveys.publish(newSurvey(discover(t, l.a.o.Host)))
		l.a.applySurvey(t.Context())
		l.restart()
		file := filepath.Join(l.dir, "names.json")
		if tt.damage {
			if err := os.Truncate(file, 20); err != nil {
				t.Fatal(err)
			}
		}
		// As restart, with a host whose names do not resolve.
		settle(l.a)
		l.a, l.logs = newEnforcer(t, "SIKKER_API_URL="+l.url, "SIKKER_STATE_DIR="+l.dir)
		l.kernel = &toyKernel{}
		l.a.backend.fw, l.a.o.Host = l.kernel, on("")
		ctx, stop := context.WithCancel(t.Context())
		doneC := make(chan error)
		go func() { doneC <- l.a.surveys.Run(ctx) }()
		<-l.a.surveys.firstC // it does not have the saved addresses
		l.a.restoreAll(ctx)
		if got := l.kernel.listOf("203.0.113.50"); got != tt.blocks || !l.kernel.listOf("203.0.113.51") {
			t.Errorf("%s: the API is blocked: %v, want %v; active: %v", name, got, tt.blocks,
				l.kernel.rules.Block.Prefixes())
		}
		if warned := l.logs.FilterMessageSnippet("addresses of names cannot be read").Len() > 0; warned != tt.damage {
			t.Errorf("%s: warned: %v", name, warned)
		}
		stop()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	}
}

// TestAddressesOfNamesAreWrittenWhenTheyChange: a survey that finds the same addresses writes
// nothing, until the file is a day old.
func TestAddressesOfNamesAreWrittenWhenTheyChange(t *testing.T) {
	t.Parallel()
	var k names
	began := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	n := func(hours int, addr string) host.Names {
		return host.Names{
			At:    began.Add(time.Duration(hours) * time.Hour),
			Addrs: map[string][]netip.Addr{"api.example": {netip.MustParseAddr(addr)}},
		}
	}
	for i, tt := range []struct {
		n    host.Names
		want bool
	}{
		{host.Names{At: began}, false},
		{n(0, "203.0.113.1"), true},
		{n(1, "203.0.113.1"), false},
		{n(1, "203.0.113.2"), true},
		{n(24, "203.0.113.2"), false},
		{n(25, "203.0.113.2"), true},
		{n(-100, "203.0.113.2"), true}, // the clock was set back
	} {
		if got := k.due(tt.n); got != tt.want {
			t.Errorf("step %d: got %v", i, got)
		} else if got {
			k.saved = tt.n
		}
	}
}
