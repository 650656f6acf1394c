//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// fleetNet is the network outside the proxy.
type fleetNet struct {
	mu     sync.Mutex
	addr   netip.Addr // address of the API in DNS; if not valid, DNS does not answer
	asked  map[netip.Addr]bool
	names  []string // names in requests to the API: the Host, and the name of the TLS handshake
	hangUp bool     // the API ends each connection without an answer
}

func (n *fleetNet) change(f func(n *fleetNet)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// serveAPI runs the simulator at an address.
func (f fleet) serveAPI(t *testing.T, addr string, cert tls.Certificate) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hangUp := false
		f.net.change(func(n *fleetNet) {
			n.asked[netip.MustParseAddrPort(addr).Addr()] = true
			n.names = append(n.names, r.Host+" "+r.TLS.ServerName)
			hangUp = n.hangUp
		})
		if hangUp {
			panic(http.ErrAbortHandler)
		}
		f.api.ServeHTTP(w, r)
	}))
	_ = srv.Listener.Close()
	var err error
	f.ns.Do(func() { srv.Listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	t.Cleanup(f.api.ClearFaults)
}

// serveNames runs the resolver. It has the name of the API, with a TTL of a second.
func (f fleet) serveNames(t *testing.T) {
	t.Helper()
	var conn net.PacketConn
	var err error
	f.ns.Do(func() { conn, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", fleetResolver) })
	if err != nil {
		t.Fatal(err)
	}
	doneC := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-doneC
	})
	go func() {
		defer close(doneC)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 || m.Questions[0].Name.String() != apiName+"." {
				continue
			}
			var addr netip.Addr
			if f.net.change(func(n *fleetNet) { addr = n.addr }); !addr.IsValid() {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
				m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}}}
			}
			if raw, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(raw, from)
			}
		}
	}()
}

// certificate returns a self-signed certificate for a name.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}
