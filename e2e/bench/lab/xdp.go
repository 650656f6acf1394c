package lab

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
)

// Offsets in an Ethernet frame.
const (
	etherType = 12
	source4   = 14 + 12
	source6   = 14 + 8
	length4   = 14 + 20
	length6   = 14 + 40
)

// XDP is a list in a hash map, which a program in the driver looks up: once for each prefix length
// of the list. It neither logs nor counts. No firewall on this host can be faster.
type XDP struct {
	m       *ebpf.Map
	lengths []int
}

// NewXDP loads a list.
func NewXDP(l *lists.List) (*XDP, error) {
	addrLen := 4
	if l.V6 {
		addrLen = 16
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Hash, KeySize: uint32(4 + addrLen), ValueSize: 1, MaxEntries: uint32(2 * len(l.Entries)),
	})
	if err != nil {
		return nil, err
	}
	x := &XDP{m: m, lengths: l.Lengths()}
	for _, p := range l.Entries {
		if err := x.m.Put(xdpKey(p), []byte{1}); err != nil {
			_ = x.Close() // the first error matters
			return nil, err
		}
	}
	return x, nil
}

// Close frees the list.
func (x *XDP) Close() error { return x.m.Close() }

// xdpKey is the key of an entry: its length, then its address.
func xdpKey(p netip.Prefix) []byte {
	return append(binary.NativeEndian.AppendUint32(nil, uint32(p.Bits())), p.Addr().AsSlice()...)
}

// xdpLookups returns the instructions that, for each length, look the masked source up, and drop the
// packet if it is there. R6 is the start of a frame, whose length has been checked.
func xdpLookups(m *ebpf.Map, v6 bool, lengths []int) asm.Instructions {
	kind, offset, addrLen := uint16(0x0800), source4, 4
	if v6 {
		kind, offset, addrLen = 0x86dd, source6, 16
	}
	const words = 4 // bytes
	key := int16(-8 - words - addrLen)
	prog := asm.Instructions{
		asm.LoadMem(asm.R4, asm.R6, etherType, asm.Half),
		asm.JNE.Imm(asm.R4, native(kind), "pass"),
	}
	for _, bits := range lengths {
		prog = append(prog, asm.StoreImm(asm.RFP, key, int64(bits), asm.Word))
		mask := net.CIDRMask(bits, 8*addrLen)
		for i := 0; i < addrLen; i += words {
			prog = append(prog,
				asm.LoadMem(asm.R1, asm.R6, int16(offset+i), asm.Word),
				asm.And.Imm32(asm.R1, int32(binary.NativeEndian.Uint32(mask[i:i+words]))),
				asm.StoreMem(asm.RFP, key+words+int16(i), asm.R1, asm.Word))
		}
		prog = append(prog,
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(key)),
			asm.FnMapLookupElem.Call(),
			asm.JNE.Imm(asm.R0, 0, "drop"))
	}
	return prog
}

// verdicts returns the ends of a program.
func verdicts() asm.Instructions {
	const xdpDrop, xdpPass = 1, 2
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
	}
}
