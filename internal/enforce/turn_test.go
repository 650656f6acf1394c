package enforce

import (
	"errors"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// TestNoRequestIsLostDuringAPull: one pull serves a SIGHUP and all requests that arrive during a
// pull. It accepts a list if one of them does. Each asker receives an outcome.
func TestNoRequestIsLostDuringAPull(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	e := l.a
	e.loop.turnC = make(chan turn) // a pull is under way until next takes its result
	next := func() order {
		t.Helper()
		select {
		case n := <-e.loop.turnC:
			l.a.refresh(t.Context(), n)
			l.a.end(t.Context(), l.a.sikker())
			return n.order
		case <-time.After(time.Minute):
			t.Fatal("no pull was made")
			return order{}
		}
	}
	one, two := make(chan Outcome, 1), make(chan Outcome, 1)
	l.a.begin(t.Context(), l.a.sikker(), order{})
	l.a.begin(t.Context(), l.a.sikker(), order{})
	next()
	l.a.begin(t.Context(), l.a.sikker(), order{accept: true, askers: []chan<- Outcome{one}})
	l.a.begin(t.Context(), l.a.sikker(), order{askers: []chan<- Outcome{two}})
	if o := next(); o.accept || len(o.askers) > 0 {
		t.Errorf("the pull of the SIGHUP serves %+v, which came later", o)
	}
	if o := next(); !o.accept || len(one) != 1 || len(two) != 1 {
		t.Errorf("accept %v; %d and %d answers, want true, 1 and 1", o.accept, len(one), len(two))
	}
	if e.sikker().busy || l.pulls != 3 {
		t.Errorf("%d pulls were made, want 3; another one is under way: %v", l.pulls, e.sikker().busy)
	}
}

// panickyBody is a list that cannot be read without a panic.
type panickyBody struct{}

func (panickyBody) Read([]byte) (int, error) { panic("no such line") }

// TestPanicOfAList: a list that causes a panic of the parser is a failed pull, and a saved one is
// ignored. Neither ends this process, nor each later one.
func TestPanicOfAList(t *testing.T) {
	t.Parallel()
	_, err := vetted(panickyBody{}, vet.Options{})
	if _, ok := errors.AsType[*panics.Error](err); !ok {
		t.Errorf("a list that panics is %v", err)
	}
	if _, err := readDisk("reading", func() (int, error) { panic("no such file") })(); err == nil {
		t.Error("a reading that panics succeeds")
	}
}
