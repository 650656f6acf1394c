package host

import (
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// FuzzIsReply takes packets that anybody can send: none may end the agent.
func FuzzIsReply(f *testing.F) {
	good, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x81, 0, 0, 0}) // an ICMPv6 echo reply without a body
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if isReply(1, packet, ipv4.ICMPTypeEchoReply, 7) && packet[0] != 0 {
			t.Errorf("%x is taken for an echo reply", packet)
		}
		if isReply(58, packet, ipv6.ICMPTypeEchoReply, 7) && packet[0] != 129 {
			t.Errorf("%x is taken for an ICMPv6 echo reply", packet)
		}
	})
	if !isReply(1, good, ipv4.ICMPTypeEchoReply, 7) || isReply(1, good, ipv4.ICMPTypeEchoReply, 8) {
		f.Error("a reply is not told from another's")
	}
}
