package enforce

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// textFeed is a feed of a text.
type textFeed struct {
	name string

	mu      sync.Mutex
	text    string
	err     error
	fetched int
	waitC   chan struct{} // Fetch waits for it; nil for not at all
}

func (f *textFeed) Name() string            { return f.name }
func (f *textFeed) Identity() feed.Identity { return feed.Identity{Request: f.name, Source: f.name} }

func (f *textFeed) Fetch(ctx context.Context) (io.ReadCloser, error) {
	f.mu.Lock()
	f.fetched++
	text, err, waitC := f.text, f.err, f.waitC
	f.mu.Unlock()
	if waitC != nil {
		select {
		case <-waitC:
		case <-ctx.Done():
		}
	}
	return io.NopCloser(strings.NewReader(text)), err
}

func (f *textFeed) set(text string, err error, waitC chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.err, f.waitC = text, err, waitC
}

func (f *textFeed) fetches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetched
}

// dependent is a host that needs one address. Its probe fails while the kernel blocks that.
type dependent struct {
	Host

	k     *fragile
	needs string
}

func (dependent) Local() host.Whitelist                { return host.Whitelist{} }
func (dependent) Names(context.Context) host.Whitelist { return host.Whitelist{} }

func (dependent) CheckNames() []string { return []string{"gateway"} }

func (h dependent) Probe(_ context.Context, names ...string) host.Checks {
	if len(names) > 0 && !slices.Contains(names, "gateway") {
		return nil
	}
	c := host.Check{Name: "gateway"}
	if h.k.drops(h.needs) {
		c.Err = errors.New("no answer")
	}
	return host.Checks{c}
}

// twoFeeds returns an Enforcer of the feeds one and two, and its kernel.
func twoFeeds(t *testing.T, one, two string) (*Enforcer, *fragile, *textFeed, *textFeed) {
	t.Helper()
	e, _ := newEnforcer(t)
	a, b := &textFeed{name: "one", text: one}, &textFeed{name: "two", text: two}
	e.remotes = nil
	for _, f := range []*textFeed{a, b} {
		e.remotes = append(e.remotes, e.newRemote(Remote{Feed: f, Saved: feed.NewSaved(e.o.StateDir, f.name, f)}))
	}
	k := &fragile{}
	e.backend.fw, e.o.Host = k, host.New(host.Options{Root: t.TempDir()})
	e.surveys.publish(survey{})
	close(e.surveys.next) // no survey is waited for
	return e, k, a, b
}

func wantDropped(t *testing.T, k *fragile, want bool, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if k.drops(addr) != want {
			t.Errorf("%s is blocked: %v", addr, !want)
		}
	}
}

// TestTwoFeeds: the lists of both feeds are active together. A request for a pull is answered once
// both are pulled. If one fails, both lists stay active, the status and the answer name it, and the
// next request succeeds.
func TestTwoFeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- e.Run(ctx) }()
		time.Sleep(time.Minute)
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.1")

		waitC := make(chan struct{})
		a.set("203.0.113.2\n", nil, nil)
		b.set("", errors.New("two is down"), waitC)
		answerC := make(chan Outcome, 1)
		ask := func() { answerC <- e.Pull(ctx, false) }
		go ask()
		time.Sleep(time.Minute)
		wantDropped(t, k, true, "203.0.113.2", "198.51.100.1")
		if len(answerC) > 0 {
			t.Error("the answer comes before the second feed is pulled")
		}
		close(waitC)
		if o := <-answerC; o.OK || !strings.Contains(o.Text, "two: pull blacklist: two is down") {
			t.Errorf("one feed failed: got %+v", o)
		}
		wantDropped(t, k, true, "203.0.113.2", "198.51.100.1")
		if s := e.o.Board.Latest(); !s.Holds(status.CondRefresh) || !strings.Contains(s.Reason, "two: ") {
			t.Errorf("one feed failed: %s %q", s.State, s.Reason)
		}

		waitC = make(chan struct{})
		b.set("198.51.100.2\n", nil, waitC)
		go ask()
		time.Sleep(time.Minute) // the first feed is pulled while the second counts as failed
		close(waitC)
		if o := <-answerC; !o.OK || o.Text != "Blocking 2 IPs" {
			t.Errorf("both work again: got %+v", o)
		}
		wantDropped(t, k, true, "203.0.113.2", "198.51.100.2")
		if s := e.o.Board.Latest(); s.State != status.StateActive {
			t.Errorf("both work again: %s %q", s.State, s.Reason)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestASlowFeedDelaysNoOther: while the pull of a feed hangs, the other feed is pulled at its
// interval, and the one that hangs is not pulled twice afterwards.
func TestASlowFeedDelaysNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- e.Run(ctx) }()
		time.Sleep(time.Minute)
		waitC := make(chan struct{})
		a.set("203.0.113.1\n", nil, waitC)
		time.Sleep(3 * e.o.PullInterval)
		if n := b.fetches(); n != 4 {
			t.Errorf("the other feed was pulled %d times", n)
		}
		a.set("203.0.113.1\n", nil, nil)
		close(waitC)
		time.Sleep(time.Minute)
		if n := a.fetches(); n != 2 {
			t.Errorf("the feed that hung was pulled %d times", n)
		}
		a.set("203.0.113.1\n", nil, make(chan struct{}))
		time.Sleep(e.o.PullInterval)
		if n := a.fetches(); n != 3 {
			t.Errorf("the feed was pulled %d times", n)
		}
		cancel() // the bubble of this test ends only if the pull under way does
		if err := <-doneC; err != nil {
			t.Errorf("end: %v", err)
		}
	})
}

// TestUnsavedListOfOneFeed: the status says that a list cannot be saved until each of them is.
func TestUnsavedListOfOneFeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _, _, _ := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		e.remotes[0].saver.save(func() error { return errors.New("no space left on device") })
		synctest.Wait()
		e.remotes[1].saver.save(func() error { return nil })
		synctest.Wait()
		if s := e.o.Board.Latest(); !s.Holds(status.CondUnkept) || !strings.Contains(s.Reason, "one: no space") {
			t.Errorf("one is not saved: %s %q", s.State, s.Reason)
		}
		e.remotes[0].saver.save(func() error { return nil })
		synctest.Wait()
		if s := e.o.Board.Latest(); s.Holds(status.CondUnkept) {
			t.Errorf("both are saved: %s %q", s.State, s.Reason)
		}
	})
}

// TestSavedListsOfTwoFeeds: each feed has saved lists of its own, and a start activates both.
func TestSavedListsOfTwoFeeds(t *testing.T) {
	t.Parallel()
	e, _, _, _ := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
	for _, r := range e.remotes {
		v := turn{remote: r}
		v.verdict, v.err = fetch(t.Context(), r.feed, r.vetOptions(), nil)
		e.refresh(t.Context(), v)
	}
	settle(e)
	next, k, _, _ := twoFeeds(t, "", "")
	for i, r := range next.remotes {
		r.saved = e.remotes[i].saved
	}
	next.restoreAll(t.Context())
	wantDropped(t, k, true, "203.0.113.1", "198.51.100.1")
	if s := next.o.Board.Latest(); s.BlockedIPs != 2 || !s.Kept {
		t.Errorf("got %d entries, saved %v", s.BlockedIPs, s.Kept)
	}
	for _, r := range next.remotes {
		if r.baseline != 1 || r.fresh != nil {
			t.Errorf("%s: baseline %d, fresh %v", r.feed.Name(), r.baseline, r.fresh)
		}
	}
}

// TestSurveysOfAPull: a pull waits for a survey that began no earlier than the pull. If it did not
// reach the API, another survey is asked for: the API may have another address.
func TestSurveysOfAPull(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		asks int
	}{
		"OK reached":    {nil, 0},
		"bad unreached": {&sikkerapi.TemporaryError{Err: errors.New("no route to host")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, _, a, _ := twoFeeds(t, "203.0.113.1\n", "")
				nextC, waitC := make(chan struct{}), make(chan struct{})
				e.surveys.next, e.loop.turnC = nextC, make(chan turn, 1)
				a.set("203.0.113.1\n", tt.err, waitC)
				e.begin(t.Context(), e.remotes[0], order{})
				time.Sleep(2 * firstNamesMost)
				<-e.surveys.askC // of the beginning
				close(waitC)
				synctest.Wait()
				if n := len(e.surveys.askC); n != tt.asks || len(e.loop.turnC) > 0 {
					t.Errorf("%d surveys are asked for, the turn ended before the survey: %v", n, len(e.loop.turnC) > 0)
				}
				close(nextC)
				synctest.Wait()
				if len(e.loop.turnC) != 1 {
					t.Error("the turn does not end with the survey")
				}
			})
		})
	}
}

// TestPullsGoOnAfterAPanic: after a panic over a list its feed is pulled again by itself, a few
// minutes later.
func TestPullsGoOnAfterAPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		e.o.Log = zap.NewNop()
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan int, 1)
		go func() { doneC <- runAgain(ctx, e) }()
		time.Sleep(time.Minute)
		a.set("203.0.113.2\n", nil, nil)
		waitC := make(chan struct{})
		b.set("198.51.100.1\n", nil, waitC)
		time.AfterFunc(10*time.Second, func() { close(waitC) }) // the first feed comes first
		k.arm()
		if o := e.Pull(ctx, false); o.OK || !strings.Contains(o.Text, "one: a fault of SikkerGuard itself") {
			t.Errorf("got %+v", o)
		}
		time.Sleep(retryRefused / 2)
		if n := a.fetches(); n != 2 {
			t.Errorf("the feed was pulled %d times soon after the panic", n)
		}
		time.Sleep(2 * retryRefused)
		if n := a.fetches(); n != 3 {
			t.Errorf("the feed was pulled %d times some minutes after the panic", n)
		}
		wantDropped(t, k, true, "203.0.113.2", "198.51.100.1")
		cancel()
		if n := <-doneC; n != 1 {
			t.Errorf("it panicked %d times", n)
		}
	})
}
