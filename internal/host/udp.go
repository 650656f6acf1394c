package host

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// procNet is the directory of the calling thread's network namespace (proc(5)). Reading it needs no
// privilege.
const procNet = "/proc/thread-self/net/"

// UDPSocket is a UDP socket of this host.
type UDPSocket struct {
	Port uint16     // local port
	Peer netip.Addr // address it is connected to; invalid if not connected: it may send to any address
}

// UDPSockets returns the UDP sockets of this network namespace, of both families. Sockets of
// containers in other namespaces are not included.
func UDPSockets() ([]UDPSocket, error) {
	var all []UDPSocket
	for _, name := range []string{"udp", "udp6"} {
		file, err := os.Open(procNet + name)
		if errors.Is(err, os.ErrNotExist) && name == "udp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("read UDP sockets: %w", err)
		}
		sockets, err := parseSockets(file)
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("read UDP sockets: %w", err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// parseSockets decodes /proc/net/udp or udp6: a header line, then one line per socket, with the
// local and the remote address in the second and third field.
func parseSockets(r io.Reader) ([]UDPSocket, error) {
	var sockets []UDPSocket
	lines := bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 3 {
			continue
		}
		local, err := parseAddrPort(fields[1])
		if err != nil {
			return nil, err
		}
		remote, err := parseAddrPort(fields[2])
		if err != nil {
			return nil, err
		}
		s := UDPSocket{Port: local.Port()}
		if remote.Port() != 0 {
			s.Peer = blocklist.CanonicalAddr(remote.Addr())
		}
		sockets = append(sockets, s)
	}
	return sockets, lines.Err()
}

// parseAddrPort decodes an address as the kernel prints it in these files: 32-bit words in the byte
// order of the host, in hexadecimal, a colon, and the port.
func parseAddrPort(text string) (netip.AddrPort, error) {
	words, portText, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	port, portErr := strconv.ParseUint(portText, 16, 16)
	if err = errors.Join(err, portErr); err != nil || !ok || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%.60q is not a socket address", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// LocalPorts returns the first and the last port that the kernel assigns to clients in this network
// namespace: net.ipv4.ip_local_port_range, which also applies to IPv6.
func LocalPorts() (first, last uint16, err error) {
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0, fmt.Errorf("read local port range: %w", err)
	}
	if _, err := fmt.Sscan(string(raw), &first, &last); err != nil {
		return 0, 0, fmt.Errorf("read local port range: %w", err)
	}
	return first, last, nil
}

// maxFlows is the most connections that UDPPeers reads. Reading takes about 8 µs and 600 bytes per
// connection.
const maxFlows = 30_000

// ErrFlows means that the kernel tracks more connections than UDPPeers reads.
var ErrFlows = errors.New("the kernel tracks too many connections")

// Tracks reports whether the kernel tracks connections of this network namespace. The query loads
// no kernel module.
func Tracks() bool {
	n, err := countFlows()
	return err == nil && n > 0
}

// countFlows returns the number of connections that the kernel tracks.
func countFlows() (n int, err error) {
	raw, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(raw), &n)
	return n, err
}

// UDPPeers returns the addresses to which this host, or a container whose packets it forwards,
// started to send datagrams. Its source is the kernel's connection tracking, where an entry stays
// for 30 seconds after the last datagram. It needs CAP_NET_ADMIN. The error is ErrFlows if there
// are too many connections.
func UDPPeers() (map[netip.Addr]bool, error) {
	if n, err := countFlows(); err != nil || n > maxFlows {
		return nil, fmt.Errorf("read UDP flows: %w", cmp.Or(err, ErrFlows))
	}
	peers := map[netip.Addr]bool{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) { // the list may be incomplete
			list, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		}
		if err != nil {
			return nil, fmt.Errorf("read UDP flows: %w", err)
		}
		for _, flow := range list {
			addr, ok := netip.AddrFromSlice(flow.Forward.DstIP)
			if ok && flow.Forward.Protocol == unix.IPPROTO_UDP {
				peers[blocklist.CanonicalAddr(addr)] = true
			}
		}
	}
	return peers, nil
}
