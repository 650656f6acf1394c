package sensor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/florianl/go-nflog/v2"
	"golang.org/x/sys/unix"
)

const (
	// snapLen in bytes is how much of a packet is copied: an IP header with all its options and the ports (64), or an IPv6
	// header with some extension headers.
	snapLen = 128
	// queueEvents and queueTime, in 1/100 s, are when the kernel sends what it has gathered. One event a message would cost
	// three to four times the CPU.
	queueEvents = 64
	queueTime   = 10
	// closeWait is how long close waits for the library's goroutine. It takes well under a millisecond; a library that no
	// longer behaves as listener expects must not keep the agent from shutting down.
	closeWait = time.Second
)

// listener is one binding of a group.
//
// The library reads in a goroutine of its own and gives no way to wait for it. Its last act is to unbind the group, which
// it does by a request and a reply; once the read deadline has passed it cannot read the reply, and says so to its logger.
// That is how we know: listener is that logger, and doneC tells. So close first lets the deadline pass, then waits, then
// cancels and closes in the order that the library needs.
type listener struct {
	nf     *nflog.Nflog
	tally  *tally
	cancel context.CancelFunc
	failC  chan error // gets the error that broke the socket; capacity 1, as only one can
	doneC  chan struct{}
	once   sync.Once // closes doneC
}

// listen binds the group. The library's set-up is several requests, and between the first and the last the kernel may
// already send events, which the library then mistakes for a reply and gives up: under load an error may mean nothing, and
// trying again is right.
func listen(group uint16, buffer int, t *tally) (*listener, error) {
	l := &listener{tally: t, failC: make(chan error, 1), doneC: make(chan struct{})}
	nf, err := nflog.Open(&nflog.Config{
		Group:    group,
		Copymode: nflog.CopyPacket,
		Bufsize:  snapLen,
		QThresh:  queueEvents,
		Timeout:  queueTime,
		Flags:    nflog.FlagSeq,
		Logger:   l,
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	l.nf = nf
	// Beyond net.core.rmem_max where that is permitted, else as much as is.
	if err := nf.Con.SetReadBuffer(buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("set receive buffer: %w", err), nf.Close())
	}
	t.start()
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if err := nf.RegisterWithErrorFunc(ctx, l.event, l.failed); err != nil {
		t.stop()
		cancel()
		return nil, errors.Join(err, nf.Close())
	}
	return l, nil
}

// close ends the binding. No event is delivered afterwards.
func (l *listener) close() error {
	l.expire()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-l.doneC:
	case <-timer.C:
	}
	l.tally.stop()
	l.cancel()
	return l.nf.Close()
}

// expire makes every read fail from now on. It fails only on a closed socket, where reads fail as well.
func (l *listener) expire() {
	_ = l.nf.Con.SetReadDeadline(time.Unix(1, 0))
}

// event takes what the kernel sent, one logged packet at a time, in the library's goroutine.
func (l *listener) event(a nflog.Attribute) int {
	l.tally.add(a.Seq, a.Payload)
	return 0
}

// failed says, by 0, that the library should read on after an error.
func (l *listener) failed(err error) int {
	switch {
	case errors.Is(err, unix.ENOBUFS): // events came faster than they were read
		l.tally.overrun()
		return 0
	case errors.Is(err, os.ErrDeadlineExceeded): // close asked for it
		return 1
	default:
		l.tally.stop()
		l.failC <- fmt.Errorf("receive NFLOG events: %w", err)
		l.expire()
		return 1
	}
}

// Debugf implements nflog.Logger. The library passes messages that it cannot parse by with no more than this; their
// number is then missing, and so they are counted as lost.
func (*listener) Debugf(string, ...any) {}

// Errorf implements nflog.Logger. It is called when the library's goroutine ends, and never before.
func (l *listener) Errorf(string, ...any) { l.once.Do(func() { close(l.doneC) }) }

var _ nflog.Logger = (*listener)(nil)
