package blocklist

import "net/netip"

// The functions of this file accept the same texts as package netip, from which they differ in that
// they take bytes and allocate nothing. netip.ParseAddr takes a string, which its error keeps: a
// line of a list would be copied before it could be parsed.

func parse[T string | []byte](s T) (netip.Prefix, error) {
	slash := -1
	for i := range len(s) {
		switch s[i] {
		case '%':
			return netip.Prefix{}, ErrZone
		case '/':
			slash = i
		}
	}
	address, bits := s, -1
	if slash >= 0 {
		n, ok := parseLength(s[slash+1:])
		if !ok {
			return netip.Prefix{}, ErrNoPrefix
		}
		address, bits = s[:slash], n
	}
	a, ok := parseAddr(address)
	if !ok || bits > a.BitLen() {
		return netip.Prefix{}, ErrNoPrefix
	}
	if bits < 0 {
		bits = a.BitLen()
	}
	p, _ := Canonical(netip.PrefixFrom(a, bits)) // it is valid
	return p, nil
}

// parseLength parses the length of a prefix: a decimal number of at most three digits, without a
// leading zero.
func parseLength[T string | []byte](s T) (int, bool) {
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return n, true
}

func parseAddr[T string | []byte](s T) (netip.Addr, bool) {
	for i := range len(s) {
		switch s[i] {
		case '.':
			a, ok := parse4(s)
			return netip.AddrFrom4(a), ok
		case ':':
			a, ok := parse6(s)
			return netip.AddrFrom16(a), ok
		}
	}
	return netip.Addr{}, false
}

// parse4 parses four decimal numbers with points between them.
func parse4[T string | []byte](s T) (a [4]byte, ok bool) {
	at := 0
	for field := range a {
		if field > 0 {
			if at == len(s) || s[at] != '.' {
				return a, false
			}
			at++
		}
		first, n := at, 0
		for ; at < len(s) && s[at] >= '0' && s[at] <= '9'; at++ {
			if n = 10*n + int(s[at]-'0'); n > 255 {
				return a, false
			}
		}
		if at == first || at > first+1 && s[first] == '0' {
			return a, false
		}
		a[field] = byte(n)
	}
	return a, at == len(s)
}

// parse6 parses eight hexadecimal numbers with colons between them. Two colons stand for one zero
// or more, once. The last two numbers may have the form of an IPv4 address.
func parse6[T string | []byte](s T) (a [16]byte, ok bool) {
	at, n, gap := 0, 0, -1 // a[:n] is parsed; zeros are missing after a[:gap]
	if len(s) > 1 && s[0] == ':' && s[1] == ':' {
		at, gap = 2, 0
	}
	for at < len(s) {
		if n == len(a) {
			return a, false
		}
		value, end := parseGroup(s, at)
		if end < len(s) && s[end] == '.' {
			v4, ok := parse4(s[at:])
			if !ok || n > 12 || gap < 0 && n != 12 {
				return a, false
			}
			copy(a[n:], v4[:])
			n += 4
			break
		}
		if end == at {
			return a, false
		}
		a[n], a[n+1] = byte(value>>8), byte(value)
		if at, n = end, n+2; at == len(s) {
			break
		}
		if s[at] != ':' || at+1 == len(s) {
			return a, false
		}
		if at++; s[at] == ':' {
			if gap >= 0 {
				return a, false
			}
			at, gap = at+1, n
		}
	}
	if gap < 0 {
		return a, n == len(a)
	}
	copy(a[len(a)-(n-gap):], a[gap:n])
	clear(a[gap : len(a)-(n-gap)])
	return a, n < len(a)
}

// parseGroup parses up to four hexadecimal digits that begin at s[at]. It returns the index after
// them, which is at if there are none or too many.
func parseGroup[T string | []byte](s T, at int) (value, end int) {
	for end = at; end < len(s); end++ {
		c := s[end]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return value, end
		}
		if end == at+4 {
			return 0, at
		}
		value = value<<4 | int(c)
	}
	return value, end
}
