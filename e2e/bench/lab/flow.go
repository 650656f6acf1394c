package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Flow gives packets of many sources to the server as a network card does: the driver's part of the
// kernel gets frames in batches, makes packets of them and passes them up. A BPF program in the
// kernel's test run for live frames writes the sources. No sender is involved, so the processor time
// of the calling thread is that of the receiving host alone.
type Flow struct {
	h       *Host
	frame   []byte
	index   int // of the device
	n       int // sources
	sources *ebpf.Map
	count   *ebpf.Map
	prog    *ebpf.Program
}

// xdpMD is struct xdp_md, the context of the program.
type xdpMD struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// NewFlow returns a flow of one packet of each source in turn. If x is not nil, the
// program looks the sources up and drops listed ones before a packet is made.
func (h *Host) NewFlow(kind Kind, sources []netip.Addr, x *XDP) (f *Flow, err error) {
	f = &Flow{h: h, n: len(sources)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a flow: %w", err), f.Close())
		}
	}()
	err = h.Do(func() error {
		ifc, err := net.InterfaceByName(dev)
		if err == nil {
			f.index = ifc.Index
		}
		return err
	})
	if err != nil {
		return f, err
	}
	v6 := sources[0].Is6()
	at := offsets(kind, v6)
	f.sources, err = ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: uint32(at.size()), MaxEntries: uint32(len(sources)),
	})
	if err != nil {
		return f, err
	}
	for i, src := range sources {
		if f.frame, err = h.frame(kind, src); err != nil {
			return f, err
		}
		if err := f.sources.Put(uint32(i), at.of(f.frame)); err != nil {
			return f, err
		}
	}
	f.count, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return f, err
	}
	f.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Apache-2.0", Instructions: f.program(at, x, v6),
	})
	return f, err
}

// Close frees the program and its maps.
func (f *Flow) Close() error {
	var errs []error
	if f.prog != nil {
		errs = append(errs, f.prog.Close())
	}
	for _, m := range []*ebpf.Map{f.sources, f.count} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Sources returns the number of sources.
func (f *Flow) Sources() int { return f.n }

// Send gives n packets or some more to the server, and returns the number.
func (f *Flow) Send(n int) (sent int, err error) {
	err = f.h.Do(func() (err error) {
		sent, err = f.send(n, Single)
		return err
	})
	return sent, err
}

// Sizes of the batches in which the driver passes packets up.
const (
	Single  = 1  // each alone, as when they arrive one by one
	Batches = 64 // as in a flood; the kernel looks the route up once for packets to one address
)

// send is Send on a thread in the server's namespace, in batches.
func (f *Flow) send(n, batch int) (int, error) {
	const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	before, err := f.sent()
	if err != nil {
		return 0, err
	}
	_, err = f.prog.Run(&ebpf.RunOptions{
		Data: f.frame, Repeat: uint32(n), Flags: liveFrames,
		Context: xdpMD{DataEnd: uint32(len(f.frame)), IngressIfindex: uint32(f.index)}, BatchSize: uint32(batch),
	})
	if err != nil {
		return 0, fmt.Errorf("run the flow: %w", err)
	}
	after, err := f.sent()
	return int(after - before), err
}

// sent returns the number of packets since the start.
func (f *Flow) sent() (n uint64, err error) {
	err = f.count.Lookup(uint32(0), &n)
	return n, err
}

// bursts is the number of parts of a measurement. Its result is their median, so that a short
// disturbance by another process, which empties the caches, does not count.
const bursts = 9

// Cost gives n packets to the server in batches, and returns the processor time of the receiving host for each
// in ns, from the driver to the end of the packet: dropped, or in a socket.
func (f *Flow) Cost(n, batch int) (ns float64, err error) {
	daemon, err := findSoftirqd(Sending())
	if err != nil {
		return 0, err
	}
	err = f.h.Do(func() error {
		if err := (CPUs{Sending()}).pin(); err != nil {
			return err
		}
		// The first packets fill the caches that the contestant before has emptied, and use up the
		// burst of a limit of the log.
		if _, err := f.send(n/4, batch); err != nil {
			return err
		}
		var costs []float64
		for range bursts {
			start := threadTime() + daemon.time()
			sent, err := f.send(n/bursts, batch)
			if err != nil {
				return err
			}
			costs = append(costs, float64(threadTime()+daemon.time()-start)/float64(sent))
		}
		ns = result.Median(costs)
		return nil
	})
	return ns, err
}

// parts are the places of a frame that depend on the source. They are whole words of two bytes.
type parts struct{ source, sourceLen, ipSum, sum int }

func offsets(kind Kind, v6 bool) parts {
	transport := length4
	p := parts{source: source4, sourceLen: 4, ipSum: 14 + 10}
	if v6 {
		transport = length6
		p = parts{source: source6, sourceLen: 16}
	}
	p.sum = transport + 16 // of TCP
	if kind == Datagram {
		p.sum = transport + 6
	}
	return p
}

// size returns the length of the value of a source: its address and the two checksums.
func (p parts) size() int { return p.sourceLen + 4 }

// of returns the value of a frame's source.
func (p parts) of(frame []byte) []byte {
	v := append([]byte{}, frame[p.source:p.source+p.sourceLen]...)
	v = append(v, frame[p.sum:p.sum+2]...)
	if p.ipSum == 0 {
		return append(v, 0, 0) // IPv6 has none
	}
	return append(v, frame[p.ipSum:p.ipSum+2]...)
}

// program returns the instructions that write the next source into a frame and pass it, or look it
// up as x does.
func (f *Flow) program(at parts, x *XDP, v6 bool) asm.Instructions {
	most := max(at.source+at.sourceLen, at.sum+2)
	prog := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word), // xdp_md.data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // xdp_md.data_end
		asm.Mov.Reg(asm.R4, asm.R6),
		asm.Add.Imm(asm.R4, int32(most)),
		asm.JGT.Reg(asm.R4, asm.R3, "drop"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
	}
	lookup := func(m *ebpf.Map) {
		prog = append(prog,
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "drop"))
	}
	lookup(f.count)
	prog = append(prog,
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mod.Imm(asm.R7, int32(f.n)),
		asm.StoreMem(asm.RFP, -4, asm.R7, asm.Word))
	lookup(f.sources)
	move := func(from, to, n int) {
		for i := 0; i < n; i += 2 {
			prog = append(prog,
				asm.LoadMem(asm.R1, asm.R0, int16(from+i), asm.Half),
				asm.StoreMem(asm.R6, int16(to+i), asm.R1, asm.Half))
		}
	}
	move(0, at.source, at.sourceLen)
	move(at.sourceLen, at.sum, 2)
	if at.ipSum != 0 {
		move(at.sourceLen+2, at.ipSum, 2)
	}
	if x != nil {
		prog = append(prog, xdpLookups(x.m, v6, x.lengths)...)
	}
	return append(prog, verdicts()...)
}

// threadTime returns the processor time of the calling thread. It contains the time that the kernel
// spends on packets in interrupts of the thread, unless the kernel accounts that apart
// (CONFIG_IRQ_TIME_ACCOUNTING).
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// native returns the bytes of a number as the processor stores them, for one in network order.
func native(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}
