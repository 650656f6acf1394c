package vet

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

// maxText is the most bytes that a compressed file may contain after decompression: the limit of an
// uncompressed file.
const maxText = 64 << 20

// errBinary means that the file is in a form that is not supported.
var errBinary = errors.New("it is not a text file: write one address or network per line, as UTF-8")

// errTooMuchText means that a compressed file contains more than maxText bytes.
var errTooMuchText = fmt.Errorf("decompress list: it contains more than %d MiB", maxText>>20)

// plainText returns the text of r as UTF-8. It converts UTF-16 text, which some Windows programs
// write, and decompresses gzip. The error is a read error, or a *RefusalError for another binary
// form.
func plainText(r io.Reader) (io.Reader, error) {
	br := bufio.NewReader(r)
	head, err := peek(br)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) { // RFC 1952, 2.3.1
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("decompress list: %w", err)
		}
		br = bufio.NewReader(untrusted.NewReader(z, maxText, errTooMuchText))
		if head, err = peek(br); err != nil {
			return nil, err
		}
	}
	switch order := byteOrder(head); {
	case order != nil:
		return &utf16Reader{r: br, order: order}, nil
	case bytes.IndexByte(head, 0) >= 0 || bytes.HasPrefix(head, []byte("PK\x03\x04")):
		refusal := refuse(GuardMalformed, "%v", errBinary)
		refusal.custom = true
		return nil, refusal
	}
	return br, nil
}

// peek returns the first bytes of br, or none if br is empty.
func peek(br *bufio.Reader) ([]byte, error) {
	head, err := br.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read list: %w", err)
	}
	return head, nil
}

// byteOrder returns the byte order of UTF-16 text, or nil for other text. Without a byte order
// mark, the zero byte in the first character shows the order: a list starts with ASCII.
func byteOrder(head []byte) binary.ByteOrder {
	if len(head) < 2 {
		return nil
	}
	switch {
	case head[0] == 0xff && head[1] == 0xfe, head[0] != 0 && head[1] == 0:
		return binary.LittleEndian
	case head[0] == 0xfe && head[1] == 0xff, head[0] == 0 && head[1] != 0:
		return binary.BigEndian
	}
	return nil
}

// utf16Reader converts UTF-16 to UTF-8. An invalid unit becomes U+FFFD, which makes its line
// malformed.
type utf16Reader struct {
	r     *bufio.Reader
	order binary.ByteOrder
	rest  []byte // UTF-8 that was not returned yet
	next  rune   // unit that was read but not decoded, if ahead
	ahead bool
	pair  [2]byte // the last unit; a local variable would be allocated for each
}

func (u *utf16Reader) Read(p []byte) (int, error) {
	for len(u.rest) < len(p) {
		c, err := u.char()
		if err != nil {
			if len(u.rest) > 0 && errors.Is(err, io.EOF) {
				break
			}
			return 0, err
		}
		u.rest = utf8.AppendRune(u.rest, c)
	}
	n := copy(p, u.rest)
	u.rest = append(u.rest[:0], u.rest[n:]...)
	return n, nil
}

// char returns the next character.
func (u *utf16Reader) char() (rune, error) {
	c, err := u.unit()
	if err != nil || !utf16.IsSurrogate(c) {
		return c, err
	}
	low, err := u.unit()
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if pair := utf16.DecodeRune(c, low); err == nil && pair != utf8.RuneError {
		return pair, nil
	}
	u.next, u.ahead = low, err == nil
	return utf8.RuneError, nil
}

// unit returns the next two bytes as a UTF-16 unit. A single byte at the end gives U+FFFD.
func (u *utf16Reader) unit() (rune, error) {
	if u.ahead {
		u.ahead = false
		return u.next, nil
	}
	first, err := u.r.ReadByte()
	if err != nil {
		return 0, err
	}
	second, err := u.r.ReadByte()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return utf8.RuneError, nil
		}
		return 0, err
	}
	u.pair = [2]byte{first, second}
	return rune(u.order.Uint16(u.pair[:])), nil
}
