package enforce

import (
	"context"
	"io"
	"reflect"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
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

// storage returns the address of the IPv4 entries of a list.
func storage(list blocklist.Blocklist) uintptr {
	return reflect.ValueOf(list).FieldByName("v4").Pointer()
}

// TestEqualListIsHeldOnce checks that a list that a pull or a reading returns again replaces no
// copy in memory, also if an allowed address is cut out of it.
func TestEqualListIsHeldOnce(t *testing.T) {
	t.Parallel()
	for name, allow := range map[string]string{"OK whole": "192.0.2.1/32", "OK cut": "203.0.113.2/32"} {
		l := newLab(t, "203.0.113.0/24\n198.51.100.1\n")
		e := l.a
		e.surveys.publish(newestWith(listOf(allow)))
		l.want(false, true, "Blocking 2 IPs")
		list, block := storage(e.sikker().list.entries), storage(e.active.rules.block)
		l.want(false, true, "Blocking 2 IPs")
		if storage(e.sikker().list.entries) != list || storage(e.active.rules.block) != block ||
			storage(e.wanted().block) != block || (list == block) != (name == "OK whole") {
			t.Errorf("%s: an equal list is held again", name)
		}
	}
	r := newOwnReader(nil, nil)
	r.publish(ownReading{verdict: vet.Verdict{List: listOf("203.0.113.1/32")}})
	first := storage(r.newest().verdict.List)
	r.publish(ownReading{verdict: vet.Verdict{List: listOf("203.0.113.1/32")}})
	if storage(r.newest().verdict.List) != first {
		t.Error("an equal list of the operator is held again")
	}
}

// TestPartsAndWholeAreCountedApart: the feed first lists a network that an allowed address cuts into
// eight parts, which count once, and then the eight parts.
func TestPartsAndWholeAreCountedApart(t *testing.T) {
	t.Parallel()
	l := newLab(t, "203.0.113.0/24\n")
	l.a.surveys.publish(newestWith(listOf("203.0.113.2/32")))
	l.want(false, true, "Blocking 1 IPs")
	l.list = "203.0.113.0/31\n203.0.113.3\n203.0.113.4/30\n203.0.113.8/29\n203.0.113.16/28\n" +
		"203.0.113.32/27\n203.0.113.64/26\n203.0.113.128/25\n"
	l.want(false, false, "growth guard")
	l.want(true, true, "Blocking 8 IPs")
}
