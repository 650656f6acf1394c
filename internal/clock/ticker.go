package clock

import (
	"context"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ticker waits for regular moments. It is for one goroutine, which does its work between two calls
// of Wait.
type Ticker interface {
	// Wait returns true at the next moment. If several have passed since the last call, it returns
	// at once, and once for all of them. It returns false when the context of the Ticker has ended.
	Wait() bool
	Stop() // releases the Ticker
}

// NewTicker returns a Ticker of the kernel, which ticks until ctx ends. A tick of Go's timers wakes
// three threads of a process at rest five to nine times. A tick of this one wakes one thread, and
// another two or three times if the goroutine then makes system calls. Tickers whose intervals are
// multiples of each other tick at the same moments, in one wake-up.
func NewTicker(ctx context.Context, every time.Duration) Ticker {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil { // as when there are no free descriptors
		return NewTimeTicker(ctx, every)
	}
	t := &fdTicker{ctx: ctx, file: os.NewFile(uintptr(fd), "timerfd")}
	var now unix.Timespec
	if err = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		first := (now.Nano()/int64(every) + 1) * int64(every)
		err = unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{
			Interval: unix.NsecToTimespec(int64(every)), Value: unix.NsecToTimespec(first),
		}, nil)
	}
	if err == nil {
		t.conn, err = t.file.SyscallConn()
	}
	if err != nil {
		_ = t.file.Close() // nothing was written
		return NewTimeTicker(ctx, every)
	}
	t.stop = context.AfterFunc(ctx, func() { _ = t.file.SetReadDeadline(time.Unix(1, 0)) })
	return t
}

// fdTicker is a Ticker of a timerfd.
type fdTicker struct {
	ctx  context.Context // its end ends the waits
	file *os.File
	conn syscall.RawConn
	stop func() bool
}

// Wait implements Ticker.
func (t *fdTicker) Wait() bool {
	var expirations [8]byte
	err := t.conn.Read(func(fd uintptr) bool {
		// A raw system call does not wake the monitor thread of Go's runtime. It never blocks here.
		_, _, errno := syscall.RawSyscall(unix.SYS_READ, fd,
			uintptr(unsafe.Pointer(&expirations)), //nolint:gosec // the call keeps the pointer
			unsafe.Sizeof(expirations))
		return errno != unix.EAGAIN
	})
	return err == nil && t.ctx.Err() == nil
}

// Stop implements Ticker.
func (t *fdTicker) Stop() {
	t.stop()
	_ = t.file.Close() // nothing was written
}

// NewTimeTicker returns a Ticker of Go's timers. Tests use it, because it follows their clock.
func NewTimeTicker(ctx context.Context, every time.Duration) Ticker {
	return timeTicker{ctx, time.NewTicker(every)}
}

type timeTicker struct {
	ctx    context.Context // its end ends the waits
	ticker *time.Ticker
}

// Wait implements Ticker.
func (t timeTicker) Wait() bool {
	select {
	case <-t.ctx.Done():
		return false
	case <-t.ticker.C:
		return t.ctx.Err() == nil
	}
}

// Stop implements Ticker.
func (t timeTicker) Stop() { t.ticker.Stop() }
