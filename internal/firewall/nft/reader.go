package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readerBuffer is the size of the buffer of a reader, in bytes. The kernel fills a datagram of a
// dump up to 32 KiB.
const readerBuffer = 64 << 10

// nftaGenID is NFTA_GEN_ID (linux/netfilter/nf_tables.h).
const nftaGenID = 1

// reader is a lasting netlink socket for requests that change nothing. The kernel answers within the
// call that sends the request, so the socket needs no poller, whose thread each answer would wake.
// It lasts because closing a netlink socket waits until the kernel has freed the elements of the last
// transaction, which takes seconds under load. It asks about the network namespace of the thread
// that opened it. Its methods may be called by any goroutine.
type reader struct {
	mu       sync.Mutex
	fd       int // -1 if closed
	sequence uint32
	buf      []byte
}

// openReader opens a reader.
func openReader() (*reader, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return &reader{fd: fd, buf: make([]byte, readerBuffer)}, nil
}

// Close closes the socket.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fd := r.fd
	if r.fd = -1; fd < 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// ask sends a request about nf_tables, with its attributes, and returns the answers. flags are added
// to those of a request. The error is the kernel's, as a unix.Errno.
func (r *reader) ask(
	message uint16, flags netlink.HeaderFlags, family byte, attributes []byte,
) ([]netlink.Message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence++
	const header = unix.SizeofNlMsghdr + 4 // with struct nfgenmsg
	request := netlink.Message{
		Header: netlink.Header{
			Length:   uint32(header + len(attributes)),
			Type:     netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags:    netlink.Request | flags,
			Sequence: r.sequence,
		},
		// struct nfgenmsg (linux/netfilter/nfnetlink.h): family, version, resource.
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
	raw, err := request.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := unix.Sendto(r.fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var answers []netlink.Message
	for {
		n, _, err := unix.Recvfrom(r.fd, r.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		case n > len(r.buf):
			return nil, fmt.Errorf("answer of %d bytes is too long", n)
		}
		more, done, err := decodeAnswers(r.buf[:n], r.sequence, flags&netlink.Dump == netlink.Dump)
		answers = append(answers, more...)
		if done || err != nil {
			return answers, err
		}
	}
}

// decodeAnswers returns the answers in a datagram to the request of the given sequence number. done
// reports whether no more follow: those to a dump end with a message of their own, other requests
// have one answer. Answers to an earlier request that failed half-way are left out.
func decodeAnswers(raw []byte, sequence uint32, dump bool) (answers []netlink.Message, done bool, err error) {
	err = eachMessage(raw, sequence, func(kind, flags uint16, data []byte) error {
		switch {
		case done:
			return nil
		case kind == unix.NLMSG_ERROR, kind == unix.NLMSG_DONE:
			done = true
			return errnoOf(data)
		}
		answers = append(answers, netlink.Message{
			Header: netlink.Header{Flags: netlink.HeaderFlags(flags)},
			Data:   bytes.Clone(data), // the buffer is used again for the next datagram
		})
		done = !dump
		return nil
	})
	if err != nil {
		return nil, done, err
	}
	return answers, done, nil
}

// generation returns the number of the kernel's ruleset, which each transaction changes.
func (r *reader) generation() (gen uint32, err error) {
	answers, err := r.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil)
	found := false
	if err == nil {
		err = decodeAll(answers, func(ad *netlink.AttributeDecoder) {
			for ad.Next() {
				if ad.Type() == nftaGenID {
					gen, found = ad.Uint32(), true
				}
			}
		})
	}
	if err == nil && !found {
		err = errors.New("the kernel returned no ruleset generation")
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the generation: %w", err)
	}
	return gen, nil
}

// counter returns the packets and bytes of a named counter of the table, or zeros if there is none.
func (r *reader) counter(name string) (packets, bytes uint64, err error) {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: nftaTable, Data: append([]byte(tableName), 0)},
		{Type: nftaObjName, Data: append([]byte(name), 0)},
		{Type: unix.NFTA_OBJ_TYPE, Data: binary.BigEndian.AppendUint32(nil, unix.NFT_OBJECT_COUNTER)},
	})
	if err != nil {
		return 0, 0, err
	}
	answers, err := r.ask(unix.NFT_MSG_GETOBJ, 0, unix.NFPROTO_INET, attributes)
	if errors.Is(err, unix.ENOENT) { // no table, or no counter in it
		return 0, 0, nil
	}
	if err == nil {
		err = decodeAll(answers, func(ad *netlink.AttributeDecoder) {
			_, o := decodeObject(ad)
			packets, bytes = o.packets, o.bytes
		})
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	return packets, bytes, nil
}
