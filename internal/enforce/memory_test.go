package enforce

import (
	"context"
	"io"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/memory"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// gcPercent returns the GC percentage of this process.
func gcPercent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// watchedBody is a list. It records the GC percentage while it is read.
type watchedBody struct {
	*strings.Reader

	during uint64
}

func (b *watchedBody) Fetch(context.Context) (io.ReadCloser, error) { return b, nil }

func (b *watchedBody) Close() error { return nil }

func (b *watchedBody) Read(p []byte) (int, error) {
	b.during = gcPercent()
	return b.Reader.Read(p)
}

// watchedBackend records the GC percentage while rules are applied.
type watchedBackend struct {
	firewall.Backend

	during uint64
}

func (b *watchedBackend) Apply(context.Context, ruleset.Ruleset) (ruleset.Evidence, error) {
	b.during = gcPercent()
	return ruleset.Evidence{}, nil
}

func (b *watchedBackend) Info() ruleset.Info { return ruleset.Info{} }

// TestRefreshHoldsMemorySmall checks that the garbage collector works harder while a list is read
// and applied, and not afterwards. The tests of package memory check the rest.
func TestRefreshHoldsMemorySmall(t *testing.T) { // not parallel: the GC percentage is of the process
	before := gcPercent()
	e, _ := newEnforcer(t)
	e.o.Memory = memory.New()
	body := &watchedBody{Reader: strings.NewReader("203.0.113.9\n")}
	v, err := fetch(t.Context(), body, vet.Options{}, e.o.Memory)
	if err != nil || body.during >= before || gcPercent() != before {
		t.Errorf("read (%v): GC percentage %d, then %d, then %d", err, before, body.during, gcPercent())
	}
	backend := &watchedBackend{}
	e.backend.fw = backend
	if _, err := e.applyRules(t.Context(), desired{block: v.List}); err != nil || backend.during >= before ||
		gcPercent() != before {
		t.Errorf("apply (%v): GC percentage %d, then %d, then %d", err, before, backend.during, gcPercent())
	}
}
