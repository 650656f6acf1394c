package host

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rootWith is a root directory with these files, and with links where a text begins with "-> ".
func rootWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestContained: a network namespace that is not the machine's is noticed, and a host is not taken
// for one.
func TestContained(t *testing.T) {
	t.Parallel()
	const netA, netB, pidB = "-> net:[4026531840]", "-> net:[4026532281]", "-> pid:[4026532284]"
	machine := map[string]string{"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA}
	own := map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA}
	// In a container the first process is the container's own.
	inside := func(files ...string) map[string]string {
		m := map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": pidB, "proc/1/ns/net": netB}
		for i := 0; i < len(files); i += 2 {
			m[files[i]] = files[i+1]
		}
		return m
	}
	docker := inside(".dockerenv", "")
	away := link{name: "eth0", kind: "veth", up: true, away: true}
	physical := link{name: "eth0", up: true}
	docker0 := link{name: "docker0", kind: "bridge", index: 7}
	lo := link{name: "lo"}
	for _, tt := range []struct {
		name  string
		files map[string]string
		links []link
		by    string // how it was found out; empty for not contained
	}{
		{"OK the machine", machine, []link{lo, physical}, ""},
		{"OK the machine, whose network comes by a veth", machine, []link{lo, away}, ""},
		{"OK the machine, whose first process may not be looked at", map[string]string{"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID}, []link{lo, physical}, ""},
		{"OK the machine of Linux 6.18, told by its number", map[string]string{"proc/self/ns/net": "-> " + initNet, ".dockerenv": ""}, []link{lo, away}, ""},
		{"OK Docker, network_mode host", docker, []link{lo, physical, docker0, {name: "veth1", kind: "veth", up: true, away: true}}, ""},
		{"OK Docker, network_mode host on a host whose network comes by a veth", docker, []link{lo, away, docker0}, ""},
		{"OK Docker, network_mode host and pid host", map[string]string{"proc/self/ns/net": netA, "proc/self/ns/pid": "-> " + initPID, "proc/1/ns/net": netA, ".dockerenv": ""}, []link{lo, away}, ""},
		{"OK Kubernetes, hostNetwork", inside("proc/self/cgroup", "0::/kubepods.slice/x\n"), []link{lo, physical, {name: "cali1", kind: "veth", up: true, away: true}}, ""},
		{"OK LXC with an init of its own", inside(), []link{lo, away}, ""},
		{"OK nspawn with an init of its own", inside("proc/self/cgroup", "0::/system.slice/sikkerguard.service\n"), []link{lo, {name: "host0", kind: "veth", up: true, away: true}}, ""},
		{"OK WSL", machine, []link{lo, physical}, ""},
		{"OK Docker, network_mode none, and a tunnel of its own", docker, []link{lo, {name: "tun0", kind: "tun", up: true}}, ""},
		{"OK Docker without a network", docker, []link{lo}, ""},
		{"OK nothing can be read", nil, []link{lo, away}, ""},

		{"bad another namespace than the machine's first process", own, []link{lo, away}, "first process"},
		{"bad the same, without a mark of an engine and with a physical device", own, []link{lo, physical}, "first process"},
		{"bad Docker, bridge", docker, []link{lo, away}, "/.dockerenv"},
		{"bad Docker, two bridges and a tunnel", docker, []link{lo, away, {name: "eth1", kind: "veth", up: true, away: true}, {name: "wg0", kind: "wireguard", up: true}, {name: "tunl0", kind: "ipip"}}, "eth1"},
		{"bad Docker, macvlan", docker, []link{lo, {name: "eth0", kind: "macvlan", up: true, away: true}}, "eth0"},
		{"bad Docker, pid host and bridge, whose first process may not be looked at", map[string]string{"proc/self/ns/net": netB, "proc/self/ns/pid": "-> " + initPID, ".dockerenv": ""}, []link{lo, away}, "/.dockerenv"},
		{"bad Compose, bridge", inside("etc/resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n"), []link{lo, away}, "Docker's resolver"},
		{"bad Podman, bridge", inside("run/.containerenv", ""), []link{lo, away}, "/run/.containerenv"},
		{"bad Kubernetes, a pod's network", inside("proc/self/cgroup", "0::/kubepods/besteffort/x\n"), []link{lo, away}, "kubepods"},
		{"bad rootless, a tap", inside("run/.containerenv", "", "proc/self/uid_map", "         0       1000          1\n"), []link{lo, {name: "tap0", kind: "tun", up: true}}, "tap0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, ok := tt.files["proc/self/uid_map"]; !ok && tt.files != nil {
				files := map[string]string{"proc/self/uid_map": "         0          0 4294967295\n"}
				maps.Copy(files, tt.files)
				tt.files = files
			}
			err := New(Options{Root: rootWith(t, tt.files)}).contained(tt.links)
			if (err != nil) != (tt.by != "") || err != nil && (!errors.Is(err, ErrContained) || !strings.Contains(err.Error(), tt.by)) {
				t.Errorf("got %v, want it by %q", err, tt.by)
			}
		})
	}
}

// TestBridged: guests on a bridge whose frames no packet filter sees are noticed, and networks that
// are routed are not.
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
		{"OK libvirt's network, whose hardware address a dummy gives", nil, []link{br0, guest, {name: "virbr0-nic", kind: "dummy", index: 8, master: 5, up: true}}, ""},
		{"OK frames pass the filter", map[string]string{call: "1\n"}, []link{br0, uplink, guest}, ""},
		{"OK frames of this bridge pass the filter", map[string]string{call: "0\n", callOne: "1\n"}, []link{br0, uplink, guest}, ""},
		{"OK a guest that is off", nil, []link{br0, uplink, {name: "vnet0", kind: "tun", index: 6, master: 5}}, ""},

		{"bad a virtual machine beside the uplink", nil, []link{br0, uplink, guest}, "br0"},
		{"bad a container beside the uplink", nil, []link{br0, uplink, container}, "br0"},
		{"bad br_netfilter is there and switched off", map[string]string{call: "0\n"}, []link{br0, uplink, guest}, "br0"},
		{"bad the bridge asks for a module that is not there", map[string]string{callOne: "1\n"}, []link{br0, uplink, guest}, "br0"},
		{"bad Open vSwitch, which passes no filter", map[string]string{call: "1\n"}, []link{{name: "ovs-system", kind: "openvswitch", index: 5}, uplink, guest}, "ovs-system"},
		{"bad macvtap", nil, []link{uplink, {name: "macvtap0", kind: "macvtap", index: 9, up: true}}, "macvtap0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := New(Options{Root: rootWith(t, tt.files)}).bridged(tt.links)
			if (err != nil) != (tt.want != "") || err != nil && (!errors.Is(err, ErrBridged) || !strings.HasSuffix(err.Error(), ": "+tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
