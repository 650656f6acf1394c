package memory

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// field returns a figure of /proc/self/status in bytes.
func field(t *testing.T, name string) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kB int64
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kB); n == 1 {
			return kB << 10
		}
	}
	t.Fatalf("no %s in\n%s", name, raw)
	return 0
}

// written is in a page of the program's file that was changed.
var written = []string{"a", "writable", "variable"}

// fill allocates and writes size bytes, and drops them.
func fill(size int) {
	garbage := make([]byte, size)
	for i := range garbage {
		garbage[i] = 1
	}
	if garbage[size-1] != 1 {
		panic("not written")
	}
}

// TestRelease checks that garbage and code leave the process, and that data of the program stay.
func TestRelease(t *testing.T) { // not parallel: it measures the process
	const size = 64 << 20
	fill(size)
	written[1] = strings.ToUpper(written[1])
	before, file := resident(), field(t, "RssFile")
	if before < size || before > field(t, "VmHWM")+1<<20 {
		t.Fatalf("%d bytes are resident with %d allocated", before, size)
	}
	release()
	if after := resident(); after > before-size*9/10 {
		t.Errorf("%d bytes are resident, %d before", after, before)
	}
	if after := field(t, "RssFile"); after > file*9/10 {
		t.Errorf("%d bytes of files are resident, %d before", after, file)
	}
	if got := strings.Join(written, " "); got != "a WRITABLE variable" {
		t.Errorf("a variable is %q", got)
	}
}

// TestProgramMappings checks that only mappings are released that can be read from the file again.
func TestProgramMappings(t *testing.T) { // not parallel: another test may change mappings
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	all := programMappings()
	if len(all) < 2 {
		t.Fatalf("%d mappings, want those of the code and of the constants in\n%s", len(all), maps)
	}
	for _, m := range all {
		_, line, ok := strings.Cut("\n"+string(maps), fmt.Sprintf("\n%08x-%08x ", m.start, m.end))
		if line, _, _ = strings.Cut(line, "\n"); !ok || line[:4] != "r-xp" && line[:4] != "r--p" {
			t.Errorf("mapping %x-%x: %q", m.start, m.end, line)
		}
	}
}

// TestChangedPagesStay checks that a mapping with a page that is in no file is not released: the
// kernel would forget the page, also if it is swapped out.
func TestChangedPagesStay(t *testing.T) {
	t.Parallel()
	const smaps = `00400000-00500000 r-xp 00000000 08:01 7 /usr/bin/agent
Rss:                 512 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
VmFlags: rd ex mr mw me sd
00500000-00600000 r--p 00100000 08:01 7 /usr/bin/agent
Anonymous:             4 kB
Swap:                  0 kB
00600000-00700000 r--p 00200000 08:01 7 /usr/bin/agent
Anonymous:             0 kB
Swap:                  4 kB
00700000-00800000 rw-p 00300000 08:01 7 /usr/bin/agent
Anonymous:             0 kB
Swap:                  0 kB
00800000-00900000 r--p 00000000 08:01 8 /usr/lib/another
Anonymous:             0 kB
Swap:                  0 kB
00900000-00a00000 r--p 00400000 08:01 7 /usr/bin/agent
Anonymous:             0 kB
Swap:                  0 kB
00a00000-00b00000 r--p 00500000 08:01 7 /usr/bin/agent
Rss:                   0 kB
`
	want := []mapping{{0x400000, 0x500000}, {0x900000, 0xa00000}}
	if got := unchanged(strings.NewReader(smaps), "/usr/bin/agent"); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
