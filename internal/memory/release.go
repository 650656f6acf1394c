package memory

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// release returns unused memory of the Go heap, and the mapped pages of the program, to the kernel.
func release() {
	debug.FreeOSMemory()
	for _, m := range programMappings() {
		// The pages stay in the page cache while the kernel has memory for them. The next access to
		// a page maps it again. If the kernel refuses, the pages stay mapped.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// programMappings returns the mappings of the program's file without a changed page: its code and
// its constants. A changed page exists in memory alone. One is made by a relocation, as in a
// program that was built with -buildmode=pie, or by a debugger.
func programMappings() []mapping {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer file.Close() //nolint:errcheck // it was only read
	var (
		all     []mapping
		current *mapping // nil for one that may not be released
	)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		var (
			m           mapping
			permissions string
			anonymous   int
		)
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.start, &m.end, &permissions); n == 3 {
			current = nil
			if strings.HasSuffix(line, " "+program) && !strings.Contains(permissions, "w") {
				current = &m
			}
		} else if n, _ := fmt.Sscanf(line, "Anonymous: %d kB", &anonymous); n == 1 && anonymous == 0 && current != nil {
			all = append(all, *current)
		}
	}
	return all
}

// resident returns the resident bytes of the process, or 0 if they are unknown.
func resident() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
