package nft

import (
	"iter"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The counter of a key is per-CPU memory, of which the kernel keeps some 500 counters ready. When
// packets add keys faster, as in the first second of a flood from many sources, the allocation
// fails and the packet has no key: 0.8 to 7 % of the packets of 50,000 sources in the measurement
// that led to the spare set. The set gets many elements with counters, and all but a few are
// deleted. Those few are spread so that each page of per-CPU memory has one: the kernel cannot take
// the pages back, and packets find room in them. The same flood then loses no packet.
const (
	spareName    = "spare"
	spareComment = "keeps memory for new keys"
	// spareCounters is the number of keys that find room.
	spareCounters = 1 << 16
	// spareMemory limits the memory, which is a counter of 16 bytes for each key and possible CPU.
	spareMemory = 32 << 20
	// spareStep is the distance of the elements that stay: two for each page of 256 counters.
	spareStep = 1 << 7
)

// makeSpare makes the spare set, unless the table has it. It takes some 100 ms and is not needed to
// block, so it is not a part of Apply. A refusal costs only exactness.
func (t *Table) makeSpare() {
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if t.spare || !t.active.enforced || t.applied.rules == nil {
		return
	}
	t.spare = true
	have, err := t.reads.kernelSets(t.countAttr)
	if _, ok := have[spareName]; ok || err != nil {
		return
	}
	n := spareSize(possibleCPUs())
	all, rest := spareElements(n, false), spareElements(n, true)
	b := newBatch(t.conn, t.table(), have)
	b.err(b.conn.AddSet(&nftables.Set{
		Table: b.table, Name: spareName, KeyType: nftables.TypeIPAddr, Size: uint32(n), Counter: true,
		Comment: spareComment,
	}, nil))
	b.flush()
	plan := setPlan{kernel: spareName, family: families()[0]}
	b.encoder.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, plan, all)
	if t.send(b) != nil {
		return
	}
	b = newBatch(t.conn, t.table(), have)
	b.encoder.elements(unix.NFT_MSG_DELSETELEM, 0, plan, rest)
	_ = t.send(b) // then the set keeps all its elements, which is memory that keys do not find
}

// spareSize returns the number of elements of the spare set on a host with that many CPUs.
func spareSize(cpus int) int { return min(spareCounters, spareMemory/16/cpus) }

// possibleCPUs returns the number of CPUs that the kernel allocates per-CPU memory for. It can be many
// times the number of CPUs that run, as in a virtual machine that can be given more.
func possibleCPUs() int {
	raw, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return runtime.NumCPU()
	}
	return max(runtime.NumCPU(), cpusOf(string(raw)))
}

// cpusOf returns one more than the last number of a list of CPUs, as 0-3,8-11, or 0 if there is none.
func cpusOf(list string) int {
	last, err := strconv.Atoi(strings.TrimSpace(list[strings.LastIndexAny(list, "-,")+1:]))
	if err != nil {
		return 0
	}
	return last + 1
}

// spareElements yields n addresses from 0.0.0.0, or those of them that do not stay.
func spareElements(n int, deleted bool) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := range n {
			if deleted && i%spareStep == 0 {
				continue
			}
			a := netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
			if !yield(netip.PrefixFrom(a, 32)) {
				return
			}
		}
	}
}
