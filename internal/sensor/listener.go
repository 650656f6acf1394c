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
	// snapLen is the number of bytes copied of a packet: an IP header with all its options and the
	// ports (64), or an IPv6 header with some extension headers.
	snapLen = 128
	// The kernel sends its queue after queueEvents events or queueTime, in 1/100 s. One event per
	// message would cost three to four times the CPU.
	queueEvents = 64
	queueTime   = 10
	// closeWait is the longest wait of close for the goroutine of the library. It takes well under
	// a millisecond. If a version of the library no longer behaves as listener expects, it must not
	// keep the agent from stopping.
	closeWait = time.Second
)

// listener is one binding of a group.
//
// The library reads in its own goroutine and has no function that waits for it. The last thing this
// goroutine does is to unbind the group with a request and a reply. If the read deadline has
// passed, it cannot read the reply and logs an error. listener is the logger that gets this error,
// and closes doneC. So close first lets the deadline pass, then waits for doneC, then cancels and
// closes in the order that the library needs.
type listener struct {
	nf     *nflog.Nflog
	tally  *tally
	cancel context.CancelFunc
	failC  chan error // gets the error that broke the socket; capacity 1, as there is at most one
	doneC  chan struct{}
	once   sync.Once // closes doneC
}

// listen binds the group. The library sends several requests to set up. Between the first and the
// last the kernel may already send events; the library mistakes one for a reply and fails. So under
// load an error may mean nothing, and the caller tries again.
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
	// More than net.core.rmem_max if the process may, else as much as the kernel allows.
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

// close ends the binding. No event is delivered after it returns.
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

// expire makes every later read fail. It fails only on a closed socket, where reads also fail.
func (l *listener) expire() {
	_ = l.nf.Con.SetReadDeadline(time.Unix(1, 0))
}

// event counts one logged packet. The goroutine of the library calls it.
func (l *listener) event(a nflog.Attribute) int {
	l.tally.add(a.Seq, a.Payload, a.Prefix != nil && *a.Prefix != "")
	return 0
}

// failed returns 0 if the library should continue to read after err, else 1.
func (l *listener) failed(err error) int {
	switch {
	case errors.Is(err, unix.ENOBUFS): // events came faster than they were read
		l.tally.overrun()
		return 0
	case errors.Is(err, os.ErrDeadlineExceeded): // close set the deadline
		return 1
	default:
		l.tally.stop()
		l.failC <- fmt.Errorf("receive NFLOG events: %w", err)
		l.expire()
		return 1
	}
}

// Debugf implements nflog.Logger. If the library cannot parse a message, it calls only Debugf. The
// sequence number of the message is then missing, so it is counted as lost.
func (*listener) Debugf(string, ...any) {}

// Errorf implements nflog.Logger. The library calls it when its goroutine ends, and never before.
func (l *listener) Errorf(string, ...any) { l.once.Do(func() { close(l.doneC) }) }

var _ nflog.Logger = (*listener)(nil)
