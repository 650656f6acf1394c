package observe

import (
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

const (
	// maxLabels bounds the keys of a generation, to some 5 MB. Beyond it the older half of the labels
	// is forgotten.
	maxLabels = 1 << 16
	// labelFor is the least time for which the label of a key is kept after its last packet. The
	// kernel forgets idle keys earlier, and then logs their next packet again.
	labelFor = 30 * time.Minute
)

// label is the kind and the port of the packets of a key, as its first event shows them.
type label struct {
	port uint16
	kind sensor.Kind
}

// labels keeps the labels of the keys that do not show the kind themselves. There are two
// generations; a key that is used moves to the young one.
type labels struct {
	young, old map[ruleset.HitKey]label
	turned     time.Time // when young was begun
}

// put stores the label of a key.
func (l *labels) put(k ruleset.HitKey, e sensor.Key) {
	if _, shown := shownBy(k); shown {
		return
	}
	if l.young == nil {
		l.young = map[ruleset.HitKey]label{}
	}
	if len(l.young) >= maxLabels {
		l.old, l.young = l.young, map[ruleset.HitKey]label{}
	}
	delete(l.old, k)
	l.young[k] = label{e.Port, e.Kind}
}

// of returns the key of the hits of k. It returns false if the label is not known.
func (l *labels) of(k ruleset.HitKey) (sensor.Key, bool) {
	if key, shown := shownBy(k); shown {
		return key, true
	}
	n, known := l.young[k]
	key := sensor.Key{Source: k.Source, Port: n.port, Protocol: sensor.Protocol(k.Protocol), Kind: n.kind}
	if known {
		return key, true
	}
	if n, known = l.old[k]; !known {
		return sensor.Key{}, false
	}
	key.Port, key.Kind = n.port, n.kind
	l.put(k, key)
	return key, true
}

// expire forgets labels that were not used for labelFor.
func (l *labels) expire(now time.Time) {
	if now.Sub(l.turned) > labelFor {
		l.old, l.young, l.turned = l.young, nil, now
	}
}

// shownBy returns the key of the hits of a kernel's key that shows their kind without an event.
//
// TCP from a service's port is taken for answers: the first packet may be a later one of a
// connection, and answers to later connections have the same key. They must show, because a source
// that this host needs may be on the list. A source, protocol and no port is of any kind if the
// protocol has ports, or types as ICMP has. So is a source without a protocol.
func shownBy(k ruleset.HitKey) (sensor.Key, bool) {
	key := sensor.Key{Source: k.Source, Protocol: sensor.Protocol(k.Protocol)}
	switch {
	case k.Class == ruleset.Knock && key.Protocol == sensor.TCP:
		key.Port, key.Kind = k.Port, sensor.Attempt
	case k.Class == ruleset.Reply && key.Protocol == sensor.TCP && k.Port < sensor.ClientPorts:
		key.Port, key.Kind = k.Port, sensor.Answer
	case k.Class == ruleset.Reply && key.Protocol.IsICMP():
		key.Kind = sensor.ICMPKind(key.Protocol, byte(k.Port>>8))
	case k.Class == ruleset.Portless && (k.Protocol == 0 || key.Protocol.HasPorts() || key.Protocol.IsICMP()):
		key.Kind = sensor.Other
	default:
		return sensor.Key{}, false
	}
	return key, true
}
