package host

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

// TestContained checks that a network namespace other than the machine's is detected, and that a
// host is not mistaken for a container.
func TestContained(t *testing.T) {
	t.Parallel()
	const netA, netB, pidB = "-> net:[4026531840]", "-> net:[4026532281]", "-> pid:[4026532284]"
	machine := map[string]string{"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA}
	own := map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA}
	// In a container, process 1 is the container's own.
	inside := func(files ...string) map[string]string {
		m := map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": pidB, "proc/1/ns/net": netB}
		for i := 0; i < len(files); i += 2 {
			m[files[i]] = files[i+1]
		}
		return m
	}
	docker := inside(".dockerenv", "")
	veth := func(name string) link { return link{name: name, kind: "veth", up: true, away: true} }
	away := veth("eth0")
	physical := link{name: "eth0", up: true}
	docker0 := link{name: "docker0", kind: "bridge", index: 7}
	lo := link{name: "lo"}
	for _, tt := range []struct {
		name  string
		files map[string]string
		links []link
		mark  string // part of the reason; empty for not contained
	}{
		{"OK the machine", machine, []link{lo, physical}, ""},
		{"OK the machine, whose network comes through a veth", machine, []link{lo, away}, ""},
		{
			"OK the machine, whose first process cannot be read",
			map[string]string{"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID},
			[]link{lo, physical},
			"",
		},
		{
			"OK the machine with Linux 6.18, recognized by the inode",
			map[string]string{"proc/self/ns/net": "-> " + initNet, ".dockerenv": ""},
			[]link{lo, away},
			"",
		},
		{"OK Docker, network_mode host", docker, []link{lo, physical, docker0, veth("veth1")}, ""},
		{
			"OK Docker, network_mode host on a host whose network comes through a veth",
			docker,
			[]link{lo, away, docker0},
			"",
		},
		{
			"OK Docker, network_mode host and pid host",
			map[string]string{
				"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA,
				".dockerenv": "",
			},
			[]link{lo, away},
			"",
		},
		{
			"OK Kubernetes, hostNetwork",
			inside("proc/self/cgroup", "0::/kubepods.slice/x\n"),
			[]link{lo, physical, veth("cali1")},
			"",
		},
		{"OK LXC with its own init", inside(), []link{lo, away}, ""},
		{
			"OK nspawn with its own init",
			inside("proc/self/cgroup", "0::/system.slice/sikkerguard.service\n"),
			[]link{lo, veth("host0")},
			"",
		},
		{"OK WSL", machine, []link{lo, physical}, ""},
		{
			"OK Docker, network_mode none, with its own tunnel",
			docker,
			[]link{lo, {name: "tun0", kind: "tun", up: true}},
			"",
		},
		{"OK Docker without a network", docker, []link{lo}, ""},
		{"OK nothing can be read", nil, []link{lo, away}, ""},

		{"bad namespace other than the first process's", own, []link{lo, away}, "first process"},
		{
			"bad namespace other than the first process's, no engine, physical device",
			own,
			[]link{lo, physical},
			"first process",
		},
		{"bad Docker, bridge", docker, []link{lo, away}, "/.dockerenv"},
		{
			"bad Docker, two bridges and a tunnel",
			docker,
			[]link{
				lo, away, veth("eth1"),
				{name: "wg0", kind: "wireguard", up: true},
				{name: "tunl0", kind: "ipip"},
			},
			"eth1",
		},
		{
			"bad Docker, macvlan",
			docker,
			[]link{lo, {name: "eth0", kind: "macvlan", up: true, away: true}},
			"eth0",
		},
		{
			"bad Docker, pid host and bridge, whose first process cannot be read",
			map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": "-> " + initPID, ".dockerenv": ""},
			[]link{lo, away},
			"/.dockerenv",
		},
		{
			"bad Compose, bridge",
			inside("etc/resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n"),
			[]link{lo, away},
			"Docker's resolver",
		},
		{"bad Podman, bridge", inside("run/.containerenv", ""), []link{lo, away}, "/run/.containerenv"},
		{
			"bad Kubernetes, a pod's network",
			inside("proc/self/cgroup", "0::/kubepods/besteffort/x\n"),
			[]link{lo, away},
			"kubepods",
		},
		{
			"bad rootless, a tap",
			inside("run/.containerenv", "", "proc/self/uid_map", "         0       1000          1\n"),
			[]link{lo, {name: "tap0", kind: "tun", up: true}},
			"tap0",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, ok := tt.files["proc/self/uid_map"]; !ok && tt.files != nil {
				files := map[string]string{"proc/self/uid_map": "         0          0 4294967295\n"}
				maps.Copy(files, tt.files)
				tt.files = files
			}
			err := New(Options{Root: root(t, tt.files)}).contained(tt.links)
			if (err != nil) != (tt.mark != "") ||
				err != nil && (!errors.Is(err, ErrContained) || !strings.Contains(err.Error(), tt.mark)) {
				t.Errorf("got %v, want one with %q", err, tt.mark)
			}
		})
	}
}

// TestBridged checks that guests on a bridge whose frames pass no packet filter are detected, and
// routed networks are not.
func TestBridged(t *testing.T) {
	t.Parallel()
	const call, callOne = "proc/sys/net/bridge/bridge-nf-call-iptables", "sys/class/net/br0/bridge/nf_call_iptables"
	br0 := link{name: "br0", kind: "bridge", index: 5, up: true}
	uplink := link{name: "eth0", index: 2, master: 5, up: true}
	guest := link{name: "vnet0", kind: "tun", index: 6, master: 5, up: true}
	container := link{name: "veth1", kind: "veth", index: 6, master: 5, up: true, away: true}
	for _, tt := range []struct {
		name  string
		files map[string]string
		links []link
		want  string
	}{
		{"OK Docker's network, which is routed", nil, []link{br0, container}, ""},
		{"OK libvirt's network, which is routed", nil, []link{br0, guest}, ""},
		{"OK a bridge without guests", nil, []link{br0, uplink}, ""},
		{
			"OK libvirt's network with a dummy for the hardware address", nil,
			[]link{br0, guest, {name: "virbr0-nic", kind: "dummy", index: 8, master: 5, up: true}},
			"",
		},
		{"OK frames pass the filter", map[string]string{call: "1\n"}, []link{br0, uplink, guest}, ""},
		{
			"OK frames of this bridge pass the filter",
			map[string]string{call: "0\n", callOne: "1\n"},
			[]link{br0, uplink, guest},
			"",
		},
		{
			"OK a guest that is off", nil,
			[]link{br0, uplink, {name: "vnet0", kind: "tun", index: 6, master: 5}},
			"",
		},

		{"bad a virtual machine beside the uplink", nil, []link{br0, uplink, guest}, "br0"},
		{"bad a container beside the uplink", nil, []link{br0, uplink, container}, "br0"},
		{"bad br_netfilter loaded and off", map[string]string{call: "0\n"}, []link{br0, uplink, guest}, "br0"},
		{
			"bad bridge that needs br_netfilter without the module",
			map[string]string{callOne: "1\n"},
			[]link{br0, uplink, guest},
			"br0",
		},
		{
			"bad Open vSwitch, which passes no filter",
			map[string]string{call: "1\n"},
			[]link{{name: "ovs-system", kind: "openvswitch", index: 5}, uplink, guest},
			"ovs-system",
		},
		{"bad macvtap", nil, []link{uplink, {name: "macvtap0", kind: "macvtap", index: 9, up: true}}, "macvtap0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := New(Options{Root: root(t, tt.files)}).bridged(tt.links)
			if (err != nil) != (tt.want != "") ||
				err != nil && (!errors.Is(err, ErrBridged) || !strings.HasSuffix(err.Error(), ": "+tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
