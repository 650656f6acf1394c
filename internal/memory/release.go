package memory

import (
	"bufio"
	"fmt"
	"io"
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

// programMappings returns the mappings of the program's file that can be read from it again.
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
	return unchanged(file, program)
}

// unchanged returns those of the mappings in smaps that are of the program's file and have no changed
// page: its code and its constants. A changed page is in memory or swapped out, and in no file. One is
// made by a relocation, as in a program that was built with -buildmode=pie, or by a debugger.
func unchanged(smaps io.Reader, program string) []mapping {
	var all []mapping
	pages := map[string]int{} // kB of the current mapping
	current := mapping{}      // empty for one that may not be released
	end := func() {
		anonymous, told := pages["Anonymous"]
		if current.end > 0 && told && anonymous == 0 && pages["Swap"] == 0 {
			all = append(all, current)
		}
		current = mapping{}
		clear(pages)
	}
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var (
			m           mapping
			permissions string
			kB          int
		)
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.start, &m.end, &permissions); n == 3 {
			if end(); strings.HasSuffix(line, " "+program) && !strings.Contains(permissions, "w") {
				current = m
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if n, _ := fmt.Sscanf(value, "%d kB", &kB); n == 1 {
			pages[name] = kB
		}
	}
	end()
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
