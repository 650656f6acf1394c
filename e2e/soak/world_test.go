//go:build e2e_soak

package soak

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	testKey  = "sk_test_soak_0123456789"
	apiName  = "example.com" // name in the certificate of httptest
	apiPort  = 8443
	recvPort = 9
	diskSize = 48 << 20
)

// The addresses of the world. All but those of the server are on the list.
const (
	server4, server6 = "192.0.2.1", "2001:db8::1"
	gateway6         = "2001:db8::fe"
	apiAddr          = "203.0.113.80"
	friendAddr       = "203.0.113.200" // whitelisted by the operator
)

func gateways() []string  { return []string{"192.0.2.254", "192.0.2.253"} }
func resolvers() []string { return []string{"203.0.113.53", "203.0.113.54"} }

// world is the host of the agent and the network around it.
type world struct {
	t                    *testing.T
	server, network, hub *nettest.NS
	sim                  *apisim.Sim
	api                  *httptest.Server
	apiDown              atomic.Bool    // connections to the API are closed at once
	dnsDead              [2]atomic.Bool // a resolver does not answer
	dir, list, etc, disk string         // files: the list, the server's /etc, the file system of the state
	ca                   string
	rng                  *rand.Rand
}

func newWorld(t *testing.T, rng *rand.Rand) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, rng: rng, server: nettest.New(t), network: nettest.New(t), hub: nettest.New(t),
		dir: dir, list: filepath.Join(dir, "list"), etc: filepath.Join(dir, "etc"), disk: filepath.Join(dir, "disk"),
		ca: filepath.Join(dir, "ca.pem"),
	}
	w.wire()
	w.mount()
	w.writeList()
	w.serveAPI()
	for i, addr := range resolvers() {
		w.serveDNS(addr, &w.dnsDead[i])
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "/etc", w.etc).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v\n%s", err, out)
	}
	w.setResolver(0, true)
	return w
}

// wire makes the network: the server and everything else on a bridge, so that only the server's
// link can go down.
func (w *world) wire() {
	w.t.Helper()
	var own, others []netip.Prefix
	for _, p := range []string{server4 + "/24", server6 + "/64"} {
		own = append(own, netip.MustParsePrefix(p))
	}
	for _, p := range []string{
		gateways()[0] + "/24", gateways()[1] + "/24", gateway6 + "/64", apiAddr + "/32", resolvers()[0] + "/32",
		resolvers()[1] + "/32",
	} {
		others = append(others, netip.MustParsePrefix(p))
	}
	w.hub.Run("ip", "link", "add", "br0", "type", "bridge")
	w.hub.Run("ip", "link", "set", "br0", "up")
	for _, side := range []struct {
		ns    *nettest.NS
		addrs []netip.Prefix
		port  string
	}{{w.server, own, "server"}, {w.network, others, "network"}} {
		nettest.Link(side.ns, w.hub, "eth0", side.addrs, nil)
		w.hub.Run("ip", "link", "set", "eth0", "down")
		w.hub.Run("ip", "link", "set", "eth0", "name", side.port, "master", "br0")
		w.hub.Run("ip", "link", "set", side.port, "up")
	}
	w.network.DefaultRoute("eth0")
	w.configure(0)
}

// configure gives the server its addresses and its routes through a gateway, like the programs of a
// host when a link comes up.
func (w *world) configure(gateway int) {
	w.server.Run("ip", "addr", "replace", server4+"/24", "dev", "eth0")
	w.server.Run("ip", "-6", "addr", "replace", server6+"/64", "dev", "eth0", "nodad")
	w.server.Run("ip", "route", "replace", "default", "via", gateways()[gateway])
	w.server.Run("ip", "-6", "route", "replace", "default", "via", gateway6, "dev", "eth0")
}

// mount makes a separate file system for the state.
func (w *world) mount() {
	w.t.Helper()
	image := w.disk + ".img"
	for _, err := range []error{
		os.WriteFile(image, nil, 0o600), os.Truncate(image, diskSize), os.Mkdir(w.disk, 0o700),
	} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, w.disk}} {
		if out, err := exec.CommandContext(w.t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			w.t.Fatalf("%s: %v\n%s", strings.Join(c, " "), err, out)
		}
	}
	if err := os.Mkdir(filepath.Join(w.disk, "state"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = w.freeze(false) // the test may have failed meanwhile
		if err := unix.Unmount(w.disk, unix.MNT_DETACH); err != nil {
			w.t.Errorf("unmount: %v", err)
		}
	})
}

// freeze makes the disk hang: a process that writes to it waits.
func (w *world) freeze(on bool) error {
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // linux/fs.h
	f, err := os.Open(w.disk)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	request := uint(fiThaw)
	if on {
		request = fiFreeze
	}
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}

// writeList writes a list of some 3,000 entries. The addresses of the promises are always on it, in
// varying widths.
func (w *world) writeList() {
	var b bytes.Buffer
	for _, a := range append(append(gateways(), resolvers()...), gateway6, apiAddr, friendAddr) {
		fmt.Fprintln(&b, a)
	}
	shapes := [][]string{
		{"198.51.100.9", "45.9.20.0/24", "5.6.0.0/20", "2001:db8:f::1", "2001:db8:0:b000::/52"},
		{"198.51.100.0/28", "45.9.20.7", "5.6.7.8", "2001:db8:f::/64", "2001:db8:0:b000::/64"},
		{"198.51.100.8/30", "45.9.0.0/16", "5.6.7.0/24", "2001:db8:f::/48", "2001:db8:0:b000::7"},
	}
	for _, e := range shapes[w.rng.IntN(len(shapes))] {
		fmt.Fprintln(&b, e)
	}
	for range 2800 + w.rng.IntN(400) {
		fmt.Fprintln(&b, netip.AddrFrom4([4]byte{
			byte(70 + w.rng.IntN(20)), byte(w.rng.Uint32()), byte(w.rng.Uint32()), byte(w.rng.Uint32()),
		}))
	}
	if err := os.WriteFile(w.list, b.Bytes(), 0o600); err != nil {
		w.t.Error(err)
	}
}

// serveAPI runs the simulator of the API on the network.
func (w *world) serveAPI() {
	w.t.Helper()
	var err error
	w.sim, err = apisim.New(apisim.Options{List: w.list, Key: testKey, Tier: "large", Pulls: 1_000_000})
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(w.sim)
	_ = srv.Listener.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.network.Do(func() {
		srv.Listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp",
			fmt.Sprintf("%s:%d", apiAddr, apiPort))
	})
	if err != nil {
		w.t.Fatal(err)
	}
	srv.Listener = &gate{Listener: srv.Listener, down: &w.apiDown}
	srv.StartTLS()
	w.api = srv
	w.t.Cleanup(func() {
		w.sim.ClearFaults()
		srv.CloseClientConnections()
		srv.Close()
	})
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(w.ca, cert, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// gate closes connections at once while it is down.
type gate struct {
	net.Listener
	down *atomic.Bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || !g.down.Load() {
			return c, err
		}
		_ = c.Close()
	}
}

// serveDNS answers for the name of the API, and that no other exists.
func (w *world) serveDNS(addr string, dead *atomic.Bool) {
	w.t.Helper()
	var pc net.PacketConn
	var err error
	w.network.Do(func() { pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", addr+":53") })
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if raw := dnsAnswer(buf[:n]); raw != nil && !dead.Load() {
				_, _ = pc.WriteTo(raw, from)
			}
		}
	}()
}

func dnsAnswer(raw []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	switch name := q.Name.String(); {
	case name != apiName+".":
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(apiAddr).As4()},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// setResolver writes the server's resolv.conf, in place or by a rename.
func (w *world) setResolver(i int, inPlace bool) {
	text := []byte("nameserver " + resolvers()[i] + "\noptions timeout:1 attempts:2\n")
	file := filepath.Join(w.etc, "resolv.conf")
	var err error
	if inPlace {
		err = os.WriteFile(file, text, 0o644)
	} else if err = os.WriteFile(file+".new", text, 0o644); err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		w.t.Error(err)
	}
}
