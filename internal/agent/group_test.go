package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestWaitInOrder checks that groups and steps are waited for one after the other, each within its
// time, and that nothing is waited for after one that hangs.
func TestWaitInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangC := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		orderC := make(chan string, 5)
		ends := func(name string, after time.Duration) *group {
			g := &group{name: name, most: 3 * time.Second}
			g.start(ctx, func(ctx context.Context, p *part) { _ = p.run(ctx) },
				task("", func(ctx context.Context) error {
					<-ctx.Done()
					time.Sleep(after)
					orderC <- name
					return nil
				}))
			return g
		}
		call := func(name string, err error) step {
			return step{name, time.Second, func() error { orderC <- name; return err }}
		}
		quick, slow := ends("listener", time.Second), ends("recorder", 2*time.Second)
		hangs := &group{name: "disk to answer", most: time.Minute}
		hangs.start(ctx, func(context.Context, *part) { <-hangC }, task("", nil))
		errLast := errors.New("no route to host")

		cancel()
		start := time.Now()
		err := waitInOrder(quick, slow, call("report", errLast), hangs, call("socket", nil))
		if !errors.Is(err, errHangs) || !errors.Is(err, errLast) ||
			!strings.Contains(err.Error(), "wait for the disk to answer") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 2*time.Second+time.Minute {
			t.Errorf("it took %v", took)
		}
		close(hangC)
		close(orderC)
		var order []string
		for name := range orderC {
			order = append(order, name)
		}
		if !slices.Equal(order, []string{"listener", "recorder", "report"}) {
			t.Errorf("the order is %v", order)
		}
	})
}

// TestDryRunStartsAndStops checks that Run starts the parts of a dry run, and ends all of them when
// its context ends.
func TestDryRunStartsAndStops(t *testing.T) {
	t.Parallel()
	readyC := make(chan struct{})
	a, _ := logged(t, "SIKKER_DRY_RUN=true", "SIKKER_API_URL=http://127.0.0.1:1") // the port may be taken
	a.o.ServiceManager.Notify = func(state string) error {
		if strings.Contains(state, "READY=1") {
			close(readyC)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error)
	go func() { doneC <- a.Run(ctx) }()
	<-readyC
	cancel()
	if err := <-doneC; err != nil {
		t.Error(err)
	}
}
