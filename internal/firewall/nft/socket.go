package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// writeBuffer is the send buffer of the socket, in bytes. A transaction is one message to the
	// kernel and must fit: 500,000 IPv4 intervals take 20 MB. An unused buffer takes no memory.
	writeBuffer = 64 << 20
	// readBuffer is the receive buffer for the answers to a transaction, in bytes.
	readBuffer = 4 << 20
)

// socket is a netlink socket for transactions. The kernel makes it the owner of the tables that it
// creates, and ends the ownership when it is closed. It is not safe for concurrent use.
type socket struct {
	conn     *netlink.Conn
	wire     wire
	sequence uint32 // sequence number of the last transaction
}

// wire sends and receives on a socket. Tests count transactions with it and lose answers.
type wire interface {
	send(tx []byte) error
	receive(buf []byte) (n int, err error) // one datagram, or EAGAIN if there is none
}

func dial() (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn}
	raw, err := conn.SyscallConn()
	if err == nil {
		s.wire = descriptor{raw}
		err = s.configure()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// configure sets the buffers and caps the answers. The kernel otherwise returns every message that
// it refuses in full, and the receive buffer overflows before the error that matters.
func (s *socket) configure() error {
	if err := s.conn.SetWriteBuffer(writeBuffer); err != nil {
		return err
	}
	if err := s.conn.SetReadBuffer(readBuffer); err != nil {
		return err
	}
	return s.conn.SetOption(netlink.CapAcknowledge, true)
}

func (s *socket) close() error { return s.conn.Close() }

// port returns the netlink port, by which the kernel names the owner of a table.
func (s *socket) port() uint32 { return s.conn.PID() }

// transact sends the encoded transaction whose messages have the given sequence number, and returns
// the kernel's refusal, if any. The error is errUnsure if the kernel may have taken the
// transaction. The last message of the transaction must request an acknowledgement.
func (s *socket) transact(tx []byte, sequence uint32) error {
	return s.exchange(tx, sequence, make([]byte, os.Getpagesize()), nil)
}

// transactEcho is transact for a transaction whose messages request an echo. It passes the messages
// that the kernel sends back to visit.
func (s *socket) transactEcho(
	tx []byte, sequence uint32, visit func(kind, flags uint16, data []byte) error,
) error {
	return s.exchange(tx, sequence, make([]byte, dumpBuffer), visit)
}

// exchange sends a transaction and reads the answers. visit is nil if only refusals and
// acknowledgements matter.
func (s *socket) exchange(
	tx []byte, sequence uint32, buf []byte, visit func(kind, flags uint16, data []byte) error,
) error {
	if err := s.wire.send(tx); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	// The kernel has processed the transaction and queued its answers when send returns.
	var a answer
	for {
		n, err := s.wire.receive(buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return a.outcome()
		case err == nil:
			a.read(buf[:n], sequence)
			if visit != nil {
				a.lost = errors.Join(a.lost, eachMessage(buf[:n], anySequence, visit))
			}
		case errors.Is(err, unix.ENOBUFS): // the kernel dropped answers
			a.lost = err
		default:
			a.lost = err
			return a.outcome()
		}
	}
}

// descriptor is the wire of an open socket.
type descriptor struct{ raw syscall.RawConn }

func (d descriptor) send(tx []byte) (err error) {
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	werr := d.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), tx, 0, to)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(werr, err)
}

func (d descriptor) receive(buf []byte) (n int, err error) {
	rerr := d.raw.Control(func(fd uintptr) {
		for {
			if n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return n, errors.Join(rerr, err)
}

// answer is the kernel's answer to a transaction.
type answer struct {
	acknowledged bool  // the kernel acknowledged the last message
	refused      error // first refusal of a message
	lost         error // an error other than the kernel's refusal
}

// read adds the acknowledgements and refusals of the transaction with the given sequence number in
// one datagram.
func (a *answer) read(datagram []byte, sequence uint32) {
	// A datagram that was cut short has no acknowledgement.
	_ = eachMessage(datagram, sequence, func(kind, _ uint16, data []byte) error {
		// struct nlmsgerr: an error number, and the header of the message that it answers.
		if kind != unix.NLMSG_ERROR || len(data) < unix.SizeofNlMsgerr {
			return nil
		}
		switch err := errnoOf(data); {
		case err == nil:
			a.acknowledged = true
		case a.refused == nil:
			refused := binary.NativeEndian.Uint16(data[4+4:])
			a.refused = fmt.Errorf("refused nf_tables message %d: %w", refused&0xff, err)
		}
		return nil
	})
}

// outcome returns the refusal, or errUnsure if the transaction was neither refused nor
// acknowledged.
func (a *answer) outcome() error {
	switch {
	case a.refused != nil:
		return a.refused
	case a.acknowledged:
		return nil
	case a.lost != nil:
		return fmt.Errorf("%w: %w", errUnsure, a.lost)
	default:
		return errUnsure
	}
}
