package sensor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// defaultMaxHits bounds the two tables to about 10 MiB together, which only an attack by as many sources makes them take.
	defaultMaxHits = 1 << 16
	// receiveBuffer in bytes is what two seconds of 199,500 events/s took without a loss; the kernel's default loses half
	// at 145,000/s.
	receiveBuffer = 8 << 20
	// attempts is how often binding is tried again when events of the group itself got in between, see listen.
	attempts = 20
	// takenLimit is how long Open waits for a group that another socket has. The kernel frees a group when the last copy of its
	// socket is closed, and a process that is being started has copies of all sockets until it becomes another program: the group
	// of a sensor that was closed just now, or of an agent that was killed, may still be taken for a moment.
	takenLimit = time.Second
	takenPause = 20 * time.Millisecond
)

var errNotOpen = errors.New("run NFLOG sensor: it is not open")

// Options says what to listen to.
type Options struct {
	Group   uint16 // NFLOG group that the rules log to
	MaxHits int    // distinct keys kept a window; 0 means 65536
}

// Sensor listens to one NFLOG group. Its methods may be called from several goroutines.
type Sensor struct {
	group  uint16
	buffer int // bytes; tests make it small
	tally  *tally

	mu       sync.Mutex // holds listener
	listener *listener  // nil while closed
}

// New makes a sensor. Nothing is opened yet.
func New(o Options) *Sensor {
	if o.MaxHits <= 0 {
		o.MaxHits = defaultMaxHits
	}
	return &Sensor{group: o.Group, buffer: receiveBuffer, tally: newTally(o.MaxHits)}
}

// Open binds the group, in the network namespace of the calling thread. Events are summed from then on, and kept until
// they are taken. The error is ErrGroupTaken, ErrPermission or ErrUnsupported where the kernel gave that reason; ErrGroupTaken
// takes a second. A sensor that was closed, or whose Run has ended, may be opened again.
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

// bind listens, and tries again after errors that may pass.
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

// Run delivers events until ctx ends, and returns nil, or until the socket breaks, and returns why. Then the sensor is
// closed. Somebody else's Close ends it with nil as well.
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

// Close lets go of the group. It waits for the event that is being counted; what was summed can still be taken. Closing
// a closed sensor, or one that was never opened, does nothing.
func (s *Sensor) Close() error {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	return s.close(l)
}

// close ends l, unless it has ended already: a new binding, opened meanwhile, is left alone.
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

// Take returns what was summed since the last Take, and begins a new window. It works whether the sensor is open or not.
func (s *Sensor) Take() Window { return s.tally.take() }

// Totals returns what was seen since New.
func (s *Sensor) Totals() Totals { return s.tally.totals() }
