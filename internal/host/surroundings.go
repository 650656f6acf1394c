package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrContained means that the network namespace is not the machine's, so only this namespace is
	// protected.
	ErrContained = errors.New("this network namespace is not the machine's")
	// ErrBridged means that packets to guests cross a bridge of this host without passing the
	// host's packet filter.
	ErrBridged = errors.New("frames to guests are bridged past the packet filter")
)

const (
	// initPID is the inode of the machine's initial PID namespace, on every kernel
	// (PROC_PID_INIT_INO).
	initPID = "pid:[4026531836]"
	// initNet is the inode of the machine's initial network namespace since Linux 6.18. Older
	// kernels do not use the number.
	initNet = "net:[4026531833]"
	// engineResolver is the line of Docker's own resolver in the resolv.conf of a container on a
	// named network, such as one made by Compose.
	engineResolver = "nameserver 127.0.0.11"
)

// engines matches the names of container engines and Kubernetes in the paths of control groups.
func engines() *regexp.Regexp {
	return regexp.MustCompile(`\b(docker|kubepods|libpod|containerd|cri-o|buildkit)\b`)
}

// link is a network device.
type link struct {
	name   string
	kind   string // IFLA_INFO_KIND: veth, bridge, tun; empty for a physical device
	index  int
	master int  // index of the bridge or bond of which it is a port; 0 for none
	up     bool // administratively up, and not loopback
	away   bool // its other end, or the device below it, is in another network namespace
}

// carries reports whether l is of a kind that connects a host to a network. Tunnels and the like
// only encapsulate packets of another device.
func (l link) carries() bool {
	return slices.Contains([]string{"", "bond", "team", "vlan", "veth", "macvlan", "ipvlan"}, l.kind)
}

// isTunnelled reports whether packets to an address leave through a device that encapsulates them.
// It queries the network namespace of the calling goroutine's thread.
func isTunnelled(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil {
		return false
	}
	for _, r := range routes {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err == nil && !toLink(l).carries() && !toLink(l).switches() {
			return true
		}
	}
	return false
}

// toLink returns a device of the library.
func toLink(l netlink.Link) link {
	a := l.Attrs()
	kind := l.Type()
	if kind == "device" || kind == "generic" {
		kind = ""
	}
	up := a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0
	return link{a.Name, kind, a.Index, a.MasterIndex, up, a.NetNsID >= 0}
}

// switches reports whether l is a bridge, which joins its ports to one network.
func (l link) switches() bool { return l.kind == "bridge" || l.kind == "openvswitch" }

// tap reports whether l is connected to a program, such as a virtual machine.
func (l link) tap() bool { return l.kind == "tun" || l.kind == "tuntap" }

// Surroundings checks where this host's packets come from. contained is an ErrContained, or nil if
// this network namespace is the machine's or if that cannot be known. bridged is an ErrBridged, or
// nil. The call takes milliseconds. If the devices cannot be read, neither can the addresses, and
// Local returns that as a problem.
//
// Surroundings queries the network namespace of the calling goroutine's thread.
func (h *Host) Surroundings() (contained, bridged error) {
	links := readLinks()
	contained, bridged = h.contained(links), h.bridged(links)
	// While no device is up, for example without a link, the devices prove nothing, so the last
	// result stays.
	conclusive := slices.ContainsFunc(links, func(l link) bool {
		return l.switches() || l.up && (l.carries() || l.tap())
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if contained == nil && !conclusive {
		contained = h.lastContained
	}
	h.lastContained = contained
	return contained, bridged
}

// readLinks returns the network devices. If the list is incomplete, it returns the part that the
// kernel sent.
func readLinks() []link {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer h.Close()
	if h.SetSocketTimeout(netlinkTimeout) != nil {
		return nil
	}
	links, _ := completeDump(func() ([]link, error) {
		list, err := h.LinkList()
		var links []link
		for _, l := range list {
			links = append(links, toLink(l))
		}
		return links, err
	}, func(l link) string { return fmt.Sprint(l) })
	return links
}

// contained returns an ErrContained with the reason, or nil.
//
// The machine's first process is in the machine's network namespace. If the namespace of that
// process cannot be read, as in a container, contained recognizes the container of an application
// by the marks of its engine, and its network by its devices: the other end of each is in another
// namespace. A container with network_mode host has the machine's devices, or the engine's bridge.
// A container with its own init (LXC, systemd-nspawn) has no such mark: it counts as a host, and it
// is the one that is protected.
func (h *Host) contained(links []link) error {
	self := h.namespace("self/ns/net")
	if self == "" || self == initNet {
		return nil
	}
	if h.namespace("self/ns/pid") == initPID {
		switch h.namespace("1/ns/net") {
		case "": // not permitted to read it
		case self:
			return nil
		default:
			return fmt.Errorf("%w: the machine's first process has another one", ErrContained)
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
		case l.switches(): // an engine's bridge exists, but is down while it has no container
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

// userNamespace reports whether this process is in a user namespace other than the machine's, such
// as one of a rootless engine.
func (h *Host) userNamespace() bool {
	raw, err := readBeginning(filepath.Join(h.o.Root, "/proc/self/uid_map"))
	return err == nil && strings.Join(strings.Fields(string(raw)), " ") != "0 0 4294967295"
}

// namespace returns the name of a process's namespace, or "" if it cannot be read. path is relative
// to /proc.
func (h *Host) namespace(path string) string {
	name, err := os.Readlink(filepath.Join(h.o.Root, "proc", path))
	if err != nil {
		return ""
	}
	return name
}

// engineMark returns the mark by which a container of an application is recognized, or "" if there
// is none.
func (h *Host) engineMark() string {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(filepath.Join(h.o.Root, name)); err == nil {
			return name
		}
	}
	raw, err := readBeginning(filepath.Join(h.o.Root, "/etc/resolv.conf"))
	if err == nil && strings.Contains(string(raw), engineResolver) {
		return "/etc/resolv.conf names Docker's resolver"
	}
	if raw, err := readBeginning(filepath.Join(h.o.Root, "/proc/self/cgroup")); err == nil {
		if found := engines().FindString(string(raw)); found != "" {
			return "its control group belongs to " + found
		}
	}
	return ""
}

// bridged returns an ErrBridged that names the bridges which connect guests to an outside network
// without the packet filter between them, or nil. Packets between guests and networks to which the
// host routes, such as Docker's, pass the filter.
func (h *Host) bridged(links []link) error {
	var names []string
	for _, b := range links {
		if b.kind == "macvtap" && b.up { // connects a virtual machine to the device below it
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

// filtersBridge reports whether br_netfilter passes the frames of a bridge to the IP packet
// filters. Without the module, /proc/sys/net/bridge does not exist.
func (h *Host) filtersBridge(name string) bool {
	isOne := func(path string) bool {
		raw, err := readBeginning(filepath.Join(h.o.Root, path))
		return err == nil && strings.TrimSpace(string(raw)) == "1"
	}
	if _, err := os.Stat(filepath.Join(h.o.Root, "/proc/sys/net/bridge")); err != nil {
		return false
	}
	return isOne("/proc/sys/net/bridge/bridge-nf-call-iptables") ||
		isOne("/sys/class/net/"+name+"/bridge/nf_call_iptables")
}
