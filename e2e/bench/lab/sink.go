package lab

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// sinkPort is the UDP port of a Sink.
const sinkPort = 9

// Sink is a UDP socket on the server, for datagrams that pass. While it is counting, it reads them.
// Otherwise a socket filter drops each in the kernel at the socket: that costs the same for every
// datagram, and no reader has to keep up.
type Sink struct{ fd int }

// NewSink opens the socket, for both families.
func (h *Host) NewSink() (*Sink, error) {
	s := &Sink{fd: -1}
	err := h.Do(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrInet6{Port: sinkPort})
	})
	if err != nil {
		return nil, fmt.Errorf("open UDP socket: %w", err)
	}
	return s, nil
}

// Close closes the socket.
func (s *Sink) Close() error { return unix.Close(s.fd) }

// Ignore makes the kernel drop the datagrams at the socket from now on.
func (s *Sink) Ignore() error {
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // ret 0: keep no byte
	prog := unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach socket filter: %w", err)
	}
	return nil
}

// Count gives one datagram of each source of a flow to the server, and returns how many have arrived
// in the socket.
func (s *Sink) Count(f *Flow) (int, error) {
	if _, err := f.Send(f.n); err != nil {
		return 0, err
	}
	return s.read()
}

// read empties the socket and returns the number of datagrams. The kernel finishes every packet
// before the sender goes on.
func (s *Sink) read() (n int, err error) {
	buf := make([]byte, 64)
	for {
		switch _, _, err := unix.Recvfrom(s.fd, buf, 0); {
		case err == nil:
			n++
		case err == unix.EAGAIN:
			return n, nil
		case err != unix.EINTR:
			return n, fmt.Errorf("read datagram: %w", err)
		}
	}
}
