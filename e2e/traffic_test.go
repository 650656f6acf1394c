//go:build e2e

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	_ "github.com/sikkerapi/sikkerguard/internal/store" // registers the driver of the database
)

// through sends a datagram from each source and returns the sources whose datagram arrived.
func (w *world) through(ts *testscript.TestScript, sources []string) map[string]bool {
	before := map[string]int{}
	for _, s := range sources {
		src := netip.MustParseAddr(s)
		before[s] = w.recv.Received(src)
		w.sender.UDP(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), recvPort), "knock")
	}
	w.settled++
	last := fmt.Sprintf("settled %d", w.settled)
	w.sender.UDP(netip.MustParseAddrPort("198.18.255.99:4000"),
		netip.AddrPortFrom(serverAddr(netip.IPv4Unspecified()), recvPort), last)
	if !w.recv.Await(last, patience) {
		ts.Fatalf("a datagram from 198.18.255.99, which no list holds, does not get through")
	}
	through := map[string]bool{}
	for _, s := range sources {
		through[s] = w.recv.Received(netip.MustParseAddr(s)) > before[s]
	}
	return through
}

func serverAddr(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("192.0.2.1")
}

// passes ADDR …: packets from these sources arrive.
func cmdPasses(ts *testscript.TestScript, _ bool, args []string) {
	for addr, ok := range of(ts).through(ts, args) {
		if !ok {
			ts.Fatalf("%s does not get through", addr)
		}
	}
}

// drops ADDR …: packets from these sources do not arrive.
func cmdDrops(ts *testscript.TestScript, _ bool, args []string) {
	for addr, ok := range of(ts).through(ts, args) {
		if ok {
			ts.Fatalf("%s gets through", addr)
		}
	}
}

// knock SOURCE PORT N: sends N connection requests.
func cmdKnock(ts *testscript.TestScript, _ bool, args []string) {
	src := netip.MustParseAddr(args[0])
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for range n {
		of(ts).sender.SYN(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), uint16(port)))
	}
}

// answer SOURCE PORT N: sends the answers of a service at that port to N connection requests, each
// from another port, and to one datagram.
func cmdAnswer(ts *testscript.TestScript, _ bool, args []string) {
	src := netip.MustParseAddr(args[0])
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	from, to := netip.AddrPortFrom(src, uint16(port)), serverAddr(src)
	for i := range n {
		of(ts).sender.Answer(from, netip.AddrPortFrom(to, uint16(40000+i)))
	}
	of(ts).sender.UDP(from, netip.AddrPortFrom(to, 40000), "answer")
}

// datagram SOURCE PORT N: sends N datagrams from a client port.
func cmdDatagram(ts *testscript.TestScript, _ bool, args []string) {
	src := netip.MustParseAddr(args[0])
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for range n {
		of(ts).sender.UDP(netip.AddrPortFrom(src, 40000), netip.AddrPortFrom(serverAddr(src), uint16(port)), "datagram")
	}
}

// ping SOURCE N: sends N echo requests.
func cmdPing(ts *testscript.TestScript, _ bool, args []string) {
	src := netip.MustParseAddr(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for range n {
		of(ts).sender.Ping(src, serverAddr(src))
	}
}

// socket PORT [DEST:PORT]: opens a UDP socket of the server at that port, until the script ends,
// and sends a datagram from it.
func cmdSocket(ts *testscript.TestScript, _ bool, args []string) {
	var conn net.PacketConn
	var err error
	of(ts).server.Do(func() {
		conn, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", ":"+args[0])
	})
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	if len(args) > 1 {
		_, err = conn.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(args[1])))
		ts.Check(err)
	}
}

// flood SOURCE N: sends N connection requests to port 22, one from each of N addresses from SOURCE
// on.
func cmdFlood(ts *testscript.TestScript, _ bool, args []string) {
	src := netip.MustParseAddr(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for range n {
		of(ts).sender.SYN(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), 22))
		src = src.Next()
	}
}

// blast SOURCE PORT N RATE: sends N connection requests, RATE per second or as many as possible,
// and logs the CPU time that the newest agent used.
func cmdBlast(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	src := netip.MustParseAddr(args[0])
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	rate, err := strconv.Atoi(args[3])
	ts.Check(err)
	w.atRate(ts, n, rate, func(slice int) {
		w.sender.Flood(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), uint16(port)), slice)
	})
}

// siege SOURCE PORT N RATE NETWORK M EACH: sends N connection requests from SOURCE, RATE per second
// or as many as possible. Meanwhile each of M addresses of NETWORK sends EACH requests to port 23.
func cmdSiege(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	src, quiet := netip.MustParseAddr(args[0]), netip.MustParsePrefix(args[4]).Addr()
	var numbers []int
	for _, arg := range slices.Concat(args[1:4], args[5:7]) {
		n, err := strconv.Atoi(arg)
		ts.Check(err)
		numbers = append(numbers, n)
	}
	port, n, rate, sources, each := uint16(numbers[0]), numbers[1], numbers[2], numbers[3], numbers[4]
	sent, rounds := 0, 0
	w.atRate(ts, n, rate, func(slice int) {
		w.sender.Flood(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), port), slice)
		for sent += slice; rounds*n < sent*each; rounds++ {
			from := quiet
			for range sources {
				w.sender.SYN(netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(serverAddr(from), 23))
				from = from.Next()
			}
		}
	})
}

// history NETWORK SOURCES PACKETS: the database of the agent, which has ended, has hits of so many
// sources of the network, with so many packets in all. All of them have the same number.
func cmdHistory(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs("state/sikkerguard.db"))
	ts.Check(err)
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(context.Background(), "SELECT source, sum(packets) FROM hits GROUP BY source")
	ts.Check(err)
	defer func() { _ = rows.Close() }()
	network, counts, sources, sum := netip.MustParsePrefix(args[0]), map[uint64]bool{}, 0, uint64(0)
	for rows.Next() {
		var raw []byte
		var packets uint64
		ts.Check(rows.Scan(&raw, &packets))
		if src, _ := netip.AddrFromSlice(raw); network.Contains(src) {
			sources++
			sum += packets
			counts[packets] = true
		}
	}
	ts.Check(rows.Err())
	if want := strings.Join(args[1:], " "); fmt.Sprint(sources, sum) != want || len(counts) != 1 {
		ts.Fatalf("the history has %d sources of %v with %d packets, want %s; packets of a source: %v",
			sources, network, sum, want, slices.Collect(maps.Keys(counts)))
	}
}

// swarm NETWORK N RATE: sends one connection request to port 22 from each of N sources of the
// network, RATE per second, and logs the CPU time that the newest agent used.
func cmdSwarm(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	network := netip.MustParsePrefix(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	rate, err := strconv.Atoi(args[2])
	ts.Check(err)
	src := network.Addr()
	w.atRate(ts, n, rate, func(slice int) {
		for range slice {
			w.sender.SYN(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), 22))
			src = src.Next()
		}
	})
}

// atRate sends n packets in slices, rate per second, and logs the CPU time that the newest agent
// used.
func (w *world) atRate(ts *testscript.TestScript, n, rate int, send func(slice int)) {
	p, _ := w.agentLog(ts)
	cpu, start := cpuTicks(ts, p), time.Now()
	for sent := 0; sent < n; {
		slice := min(n-sent, rate/100)
		send(slice)
		sent += slice
		time.Sleep(time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
	}
	took := time.Since(start)
	ts.Logf("%d packets in %v (%.0f a second); the agent used %.0f%% of a core", n, took, float64(n)/took.Seconds(),
		float64(cpuTicks(ts, p)-cpu)/took.Seconds())
}

// cpuTicks returns the CPU time of a process, in 1/100 s.
func cpuTicks(ts *testscript.TestScript, p *process) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	ts.Check(err)
	fields := strings.Fields(string(raw))
	user, err := strconv.Atoi(fields[13])
	ts.Check(err)
	system, err := strconv.Atoi(fields[14])
	ts.Check(err)
	return user + system
}
