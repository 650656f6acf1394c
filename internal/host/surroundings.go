package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrContained means that the network namespace is not the machine's: only this namespace is
	// guarded.
	ErrContained = errors.New("this network namespace is not the machine's")
	// ErrBridged means that packets to guests cross a bridge of this host, and not the host's
	// packet filter.
	ErrBridged = errors.New("frames to guests are bridged past the packet filter")
)

const (
	// initPID is the inode of the machine's first process namespace, on every kernel
	// (PROC_PID_INIT_INO).
	initPID = "pid:[4026531836]"
	// initNet is that of its first network namespace, from Linux 6.18 on. Older kernels give the
	// number to none.
	initNet = "net:[4026531833]"
	// engineResolver is where Docker's own resolver answers, in a container on a network that was
	// made by name, as Compose makes one.
	engineResolver = "nameserver 127.0.0.11"
)

// engines are the names that container engines and Kubernetes give to control groups.
func engines() *regexp.Regexp {
	return regexp.MustCompile(`\b(docker|kubepods|libpod|containerd|cri-o|buildkit)\b`)
}

// link is one network device.
type link struct {
	name   string
	kind   string // as IFLA_INFO_KIND: veth, bridge, tun; empty for a physical one
	index  int
	master int  // the bridge or bond that it is a port of; 0 for none
	up     bool // and not loopback
	away   bool // its other end, or the device below it, is in another network namespace
}

// carries reports whether l is of a kind that brings a host its packets. Tunnels and the like only
// wrap them.
func (l link) carries() bool {
	return slices.Contains([]string{"", "bond", "team", "vlan", "veth", "macvlan", "ipvlan"}, l.kind)
}

// switches reports whether l joins its ports to one network.
func (l link) switches() bool { return l.kind == "bridge" || l.kind == "openvswitch" }

// tap reports whether l ends in a program, such as a virtual machine.
func (l link) tap() bool { return l.kind == "tun" || l.kind == "tuntap" }

// Surroundings looks at where this host's packets come from. The first error is an ErrContained, or
// nil when this network namespace is the machine's or when that cannot be known; the second is an
// ErrBridged, or nil. It takes milliseconds. When the devices cannot be read, neither can the
// addresses, and Local has that as a problem.
//
// The kernel is asked on the calling goroutine's thread, hence about that thread's network
// namespace.
func (h *Host) Surroundings() (contained, bridged error) {
	links := readLinks()
	contained, bridged = h.contained(links), h.bridged(links)
	// While no device is up, as when the link is down, they tell nothing new.
	tells := slices.ContainsFunc(links, func(l link) bool { return l.switches() || l.up && (l.carries() || l.tap()) })
	h.mu.Lock()
	defer h.mu.Unlock()
	if contained == nil && !tells {
		contained = h.alone
	}
	h.alone = contained
	return contained, bridged
}

// readLinks lists the network devices, those that the kernel listed when it did not list all.
func readLinks() []link {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer h.Close()
	if h.SetSocketTimeout(netlinkTimeout) != nil {
		return nil
	}
	links, _ := whole(func() ([]link, error) {
		list, err := h.LinkList()
		var links []link
		for _, l := range list {
			a := l.Attrs()
			kind := l.Type()
			if kind == "device" || kind == "generic" {
				kind = ""
			}
			up := a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0
			links = append(links, link{a.Name, kind, a.Index, a.MasterIndex, up, a.NetNsID >= 0})
		}
		return links, err
	}, func(l link) string { return fmt.Sprint(l) })
	return links
}

// contained returns an ErrContained that says how it was found out.
//
// The machine's first process has the machine's network. Where its namespace cannot be read, as in
// a container, an application's container is recognized by its engine's marks, and its network by
// its devices: each one's other end is in another namespace. A container with network_mode host has
// the machine's devices, or the engine's bridge. A container with an init of its own (LXC,
// systemd-nspawn) has no such mark: it is a host, and the one that is guarded.
func (h *Host) contained(links []link) error {
	self := h.namespace("self/ns/net")
	if self == "" || self == initNet {
		return nil
	}
	if h.namespace("self/ns/pid") == initPID {
		switch h.namespace("1/ns/net") {
		case "": // this process may not look at that one
		case self:
			return nil
		default:
			return fmt.Errorf("%w: the machine's first process has another", ErrContained)
		}
	}
	mark := h.engineMark()
	if mark == "" {
		return nil
	}
	outside := ""
	rootless := h.userNamespace()
	for _, l := range links {
		switch {
		case l.switches(): // an engine's is there, and down, while no container is on it
			return nil
		case !l.up:
		case rootless && l.tap(), l.carries() && l.away:
			outside = l.name
		case l.carries():
			return nil
		}
	}
	if outside == "" {
		return nil
	}
	return fmt.Errorf("%w: this is a container (%s), and the other end of %s is outside", ErrContained, mark, outside)
}

// userNamespace reports whether this process is in another user namespace than the machine's, as
// one of a rootless engine is.
func (h *Host) userNamespace() bool {
	raw, err := readBeginning(filepath.Join(h.o.Root, "/proc/self/uid_map"))
	return err == nil && strings.Join(strings.Fields(string(raw)), " ") != "0 0 4294967295"
}

// namespace names a namespace of a process; empty if it cannot be read.
func (h *Host) namespace(of string) string {
	name, err := os.Readlink(filepath.Join(h.o.Root, "proc", of))
	if err != nil {
		return ""
	}
	return name
}

// engineMark returns the mark by which an application's container is recognized, empty for none.
func (h *Host) engineMark() string {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(filepath.Join(h.o.Root, name)); err == nil {
			return name
		}
	}
	if raw, err := readBeginning(filepath.Join(h.o.Root, "/etc/resolv.conf")); err == nil && strings.Contains(string(raw), engineResolver) {
		return "/etc/resolv.conf names Docker's resolver"
	}
	if raw, err := readBeginning(filepath.Join(h.o.Root, "/proc/self/cgroup")); err == nil {
		if found := engines().FindString(string(raw)); found != "" {
			return "its control group is of " + found
		}
	}
	return ""
}

// bridged returns an ErrBridged that names the bridges which connect guests to a network outside,
// without the packet filter between them. Between guests and networks that the host routes to, as
// Docker's are, the filter is passed.
func (h *Host) bridged(links []link) error {
	var names []string
	for _, b := range links {
		if b.kind == "macvtap" && b.up { // the end of a virtual machine, beside the device below it
			names = append(names, b.name)
		}
		if !b.switches() || b.kind == "bridge" && h.filtersBridge(b.name) {
			continue
		}
		guest, outside := false, false
		for _, port := range links {
			switch {
			case port.master != b.index || !port.up || port.kind == "dummy":
			case port.tap(), port.kind == "veth" && port.away:
				guest = true
			default:
				outside = true
			}
		}
		if guest && outside {
			names = append(names, b.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrBridged, strings.Join(names, ", "))
}

// filtersBridge reports whether br_netfilter passes the frames of a bridge to the packet filters of
// IP. Without the module /proc/sys/net/bridge is missing.
func (h *Host) filtersBridge(name string) bool {
	one := func(path string) bool {
		raw, err := readBeginning(filepath.Join(h.o.Root, path))
		return err == nil && strings.TrimSpace(string(raw)) == "1"
	}
	if _, err := os.Stat(filepath.Join(h.o.Root, "/proc/sys/net/bridge")); err != nil {
		return false
	}
	return one("/proc/sys/net/bridge/bridge-nf-call-iptables") || one("/sys/class/net/"+name+"/bridge/nf_call_iptables")
}
