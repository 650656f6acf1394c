package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// defaultPorts are commonly attacked services, in the form of SIKKER_PORT_MAP.
const defaultPorts = "ssh=22,2222,22222;telnet=23,2323;ftp=21,2121;http=80,8080;https=443,8443;smtp=25,587,465;" +
	"imap=143,993;mysql=3306,33060;postgres=5432,5433;mssql=1433,14330;redis=6379,6380;" +
	"mongodb=27017,27018;smb=445,139;docker=2375,2376;elasticsearch=9200,9201;rtsp=554,8554;sip=5060;" +
	"rdp=3389;vnc=5900;dns=53;ntp=123;snmp=161;ldap=389,636;pop3=110,995;memcached=11211;mqtt=1883,8883;" +
	"kubernetes=6443,10250"

// maxName is the longest service name, in bytes. The API accepts no longer protocol.
const maxName = 32

// PortMap maps ports to the names of their services. The zero value is empty.
type PortMap struct {
	names map[uint16]string
}

// Name returns the service of a port.
func (m PortMap) Name(port uint16) (string, bool) {
	name, ok := m.names[port]
	return name, ok
}

// services returns the ports of each service, names and ports in ascending order.
func (m PortMap) services() (names []string, ports map[string][]uint16) {
	ports = map[string][]uint16{}
	for _, port := range slices.Sorted(maps.Keys(m.names)) {
		ports[m.names[port]] = append(ports[m.names[port]], port)
	}
	return slices.Sorted(maps.Keys(ports)), ports
}

// parsePorts merges entries like ssh=22,2222;http=80 into the defaults, and returns the problems of
// bad entries.
func parsePorts(value string) (PortMap, []string) {
	defaults, bad := parseEntries(defaultPorts)
	own, more := parseEntries(value)
	maps.Copy(defaults, own)
	return PortMap{names: defaults}, append(bad, more...)
}

// parseEntries parses entries like ssh=22,2222;http=80, also one per line. If a name occurs twice,
// it has the ports of both. A port has one name.
func parseEntries(value string) (map[uint16]string, []string) {
	names := map[uint16]string{}
	var bad []string
	for text := range strings.SplitSeq(strings.ReplaceAll(value, "\n", ";"), ";") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		name, list, ok := strings.Cut(text, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || !validName(name) {
			bad = append(bad, entry(text, "name=port,port with a name of a–z, 0–9 and -, at most 32 long"))
			continue
		}
		for text := range strings.SplitSeq(list, ",") {
			text = strings.TrimSpace(text)
			n, ok := decimal(text)
			if !ok || n < 1 || n > 65535 {
				bad = append(bad,
					fmt.Sprintf("port %s of %s must be a whole number from 1 to 65535", quote(text), name))
				continue
			}
			switch other, taken := names[uint16(n)]; {
			case taken && other != name:
				bad = append(bad, fmt.Sprintf("port %d is given to both %s and %s: keep one of them", n, other, name))
			default:
				names[uint16(n)] = name
			}
		}
	}
	return names, bad
}

func validName(name string) bool {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, odd)
}
