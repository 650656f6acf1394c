package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpBuffer is the size of one read of a dump, in bytes. The kernel fills reads of up to 32 KiB. A
// dump takes four times as long with reads of 8 KiB.
const dumpBuffer = 1 << 16

var (
	// errNoSet means that the kernel has no set of that name.
	errNoSet = errors.New("the kernel has no such set")
	// errAnswer means that the kernel's answer ended early or could not be decoded.
	errAnswer = errors.New("the kernel's answer is incomplete")
)

// dumpElements passes the key and the packet counter of each element of a set to visit. The bytes of
// the key are valid only during the call. complete is false if a transaction interrupted the dump:
// elements may be missing or occur twice. buf holds one read.
func (s *socket) dumpElements(
	set string, buf []byte, visit func(key []byte, packets uint64),
) (complete bool, err error) {
	s.sequence++
	e := encoder{table: tableName, sequence: s.sequence}
	e.setMessage(unix.NFT_MSG_GETSETELEM, netlink.Dump, setPlan{kernel: set})
	e.end()
	if err := s.wire.send(e.buf); err != nil {
		return false, fmt.Errorf("ask for the elements of set %s: %w", set, err)
	}
	complete = true
	for {
		// The kernel puts the next part of a dump into the queue while it hands over the one before.
		n, err := s.wire.receive(buf)
		if err != nil {
			return false, fmt.Errorf("read the elements of set %s: %w", set, err)
		}
		done := false
		err = eachMessage(buf[:n], s.sequence, func(kind, flags uint16, data []byte) error {
			complete = complete && flags&unix.NLM_F_DUMP_INTR == 0
			switch kind {
			case unix.NLMSG_DONE:
				done = true
				return errnoOf(data)
			case unix.NLMSG_ERROR:
				done = true
				return errnoOf(data)
			}
			return decodeCounts(data, visit)
		})
		switch {
		case errors.Is(err, unix.ENOENT):
			return false, errNoSet
		case err != nil:
			return false, fmt.Errorf("read the elements of set %s: %w", set, err)
		case done:
			return complete, nil
		}
	}
}

// anySequence makes eachMessage visit messages with any sequence number. Those of an echo have 0 on
// some kernels.
const anySequence = 0

// eachMessage calls visit for each netlink message of a datagram that answers the request with the
// given sequence number.
func eachMessage(datagram []byte, sequence uint32, visit func(kind, flags uint16, data []byte) error) error {
	for len(datagram) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(datagram))
		if size < unix.SizeofNlMsghdr || size > len(datagram) {
			return errAnswer
		}
		m := datagram[:size]
		datagram = datagram[min(align(size), len(datagram)):]
		if sequence != anySequence && binary.NativeEndian.Uint32(m[8:]) != sequence {
			continue // of an earlier request
		}
		kind, flags := binary.NativeEndian.Uint16(m[4:]), binary.NativeEndian.Uint16(m[6:])
		if err := visit(kind, flags, m[unix.SizeofNlMsghdr:]); err != nil {
			return err
		}
	}
	return nil
}

// errnoOf returns the error number at the start of data, or nil if it is 0.
func errnoOf(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(data)); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// decodeCounts passes the key and the packet counter of each element in a message to visit. It
// allocates nothing.
func decodeCounts(data []byte, visit func(key []byte, packets uint64)) error {
	if len(data) < 4 { // struct nfgenmsg
		return errAnswer
	}
	return forEachAttr(data[4:], func(kind uint16, list []byte) error {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return forEachAttr(list, func(_ uint16, element []byte) error {
			var key []byte
			var packets uint64
			err := forEachAttr(element, func(kind uint16, content []byte) error {
				switch kind {
				case unix.NFTA_SET_ELEM_KEY:
					key = findAttr(content, unix.NFTA_DATA_VALUE)
				case unix.NFTA_SET_ELEM_EXPR:
					counter := findAttr(content, unix.NFTA_EXPR_DATA)
					if raw := findAttr(counter, unix.NFTA_COUNTER_PACKETS); len(raw) == 8 {
						packets = binary.BigEndian.Uint64(raw)
					}
				}
				return nil
			})
			if err == nil && key != nil {
				visit(key, packets)
			}
			return err
		})
	})
}

// forEachAttr calls visit for each netlink attribute in data.
func forEachAttr(data []byte, visit func(kind uint16, content []byte) error) error {
	for len(data) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofNlAttr || size > len(data) {
			return errAnswer
		}
		kind := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := visit(kind, data[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		data = data[min(align(size), len(data)):]
	}
	return nil
}

// findAttr returns the content of the attribute of a kind in data, or nil if there is none.
func findAttr(data []byte, kind uint16) []byte {
	for len(data) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofNlAttr || size > len(data) {
			return nil
		}
		if binary.NativeEndian.Uint16(data[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return data[unix.SizeofNlAttr:size]
		}
		data = data[min(align(size), len(data)):]
	}
	return nil
}
