package sensor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// defaultMaxHits limits the two tables to about 10 MiB together. They grow to that size only
	// under attack from as many sources.
	defaultMaxHits = 1 << 16
	// receiveBuffer, in bytes, was measured: two seconds of 199,500 events/s without a loss. The
	// default of the kernel loses half at 145,000/s.
	receiveBuffer = 8 << 20
	// attempts is the number of times that Open tries to bind if events of the group disturb the
	// set-up, see listen.
	attempts = 20
	// takenLimit is the longest wait of Open for a group that another socket has. The kernel frees
	// a group when the last copy of its socket is closed. A process between fork and exec has
	// copies of all sockets, so the group of a sensor that was just closed, or of an agent that was
	// killed, may be taken for a moment longer.
	takenLimit = time.Second
	takenPause = 20 * time.Millisecond
)

var errNotOpen = errors.New("run NFLOG sensor: it is not open")

// Options are the settings of a Sensor.
type Options struct {
	Group   uint16 // NFLOG group of the rules that log
	MaxHits int    // distinct keys per window; 0 means 65536
}

// Sensor receives the events of one NFLOG group. Its methods may be called concurrently.
type Sensor struct {
	group  uint16
	buffer int // bytes; tests make it small
	tally  *tally

	mu       sync.Mutex // guards listener
	listener *listener  // nil while closed
}

// New returns a sensor. It opens nothing.
func New(o Options) *Sensor {
	if o.MaxHits <= 0 {
		o.MaxHits = defaultMaxHits
	}
	return &Sensor{group: o.Group, buffer: receiveBuffer, tally: newTally(o.MaxHits)}
}

// Open binds the group in the network namespace of the calling thread. From then on events are
// summed, until Take returns them. The error is ErrGroupTaken, ErrPermission or ErrUnsupported if
// the kernel gave that reason; ErrGroupTaken takes a second. If the sensor was closed, or its Run
// has ended, it may be opened again.
func (s *Sensor) Open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return fmt.Errorf("open NFLOG group %d: it is open already", s.group)
	}
	if err := s.bind(); err != nil {
		return fmt.Errorf("open NFLOG group %d: %w", s.group, err)
	}
	return nil
}

// bind listens, and tries again after errors that may be temporary.
func (s *Sensor) bind() error {
	start := time.Now()
	for unexplained := 0; ; {
		l, err := listen(s.group, s.buffer, s.tally)
		if err == nil {
			s.listener = l
			return nil
		}
		switch why := diagnose(s.group); {
		case errors.Is(why, ErrGroupTaken) && time.Since(start) < takenLimit:
			time.Sleep(takenPause)
		case why != nil:
			return why
		default:
			if unexplained++; unexplained == attempts {
				return err
			}
		}
	}
}

// Run delivers events until ctx ends or another goroutine calls Close, and then returns nil. If the
// socket breaks, it returns the error. In each case the sensor is closed afterwards.
func (s *Sensor) Run(ctx context.Context) error {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	if l == nil {
		return errNotOpen
	}
	var err error
	select {
	case <-ctx.Done():
	case <-l.doneC:
		select {
		case err = <-l.failC:
		default:
		}
	}
	return errors.Join(err, s.close(l))
}

// Close releases the group. It waits for the event that is being counted. Take still returns the
// sums. If the sensor is closed or was never opened, Close does nothing.
func (s *Sensor) Close() error {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	return s.close(l)
}

// close ends l. If l has ended already, it does nothing: a new binding may be open.
func (s *Sensor) close(l *listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l == nil || s.listener != l {
		return nil
	}
	s.listener = nil
	if err := l.close(); err != nil {
		return fmt.Errorf("close NFLOG group %d: %w", s.group, err)
	}
	return nil
}

// Take returns the window since the previous Take and begins the next. The sensor may be open or
// closed.
func (s *Sensor) Take() Window { return s.tally.take() }

// Totals returns the totals since New.
func (s *Sensor) Totals() Totals { return s.tally.totals() }
