package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// bootLimit is the longest time from the start of the machine to the first suite, and from the
	// end of the last suite to that of the machine. It takes some ten seconds.
	bootLimit = 3 * time.Minute
	// shown is the number of lines printed of a suite that did not pass; its log has all of them.
	shown = 150
)

// machine is one boot of a kernel.
type machine struct {
	image   image
	payload string // disk with the tests
	console string // file for the messages of the kernel
	logs    string // directory for the output of the suites
	out     io.Writer
}

// result is the outcome of one suite in one kernel.
type result struct {
	kernel, suite           string
	passed, failed, skipped int
	skips                   []string // skipped tests, each with its reason
	took                    time.Duration
	code                    int  // exit code
	ended                   bool // the suite ran, and code is known
	tests                   bool // it counts tests
}

// ok reports whether the suite ran and no test failed.
func (r result) ok() bool {
	return r.ended && r.code == 0 && r.failed == 0 && (r.passed > 0 || !r.tests)
}

func (r result) String() string {
	state := "ok"
	switch {
	case !r.ended:
		state = "DID NOT RUN, or not to its end"
	case r.code == 124 || r.code == 137: // from timeout(1)
		state = "FAILED: took too long"
	case !r.ok():
		state = fmt.Sprintf("FAILED, exit code %d", r.code)
	}
	line := fmt.Sprintf("%-5s %-10s %4d passed %3d failed %3d skipped %5.0fs  %s",
		r.kernel, r.suite, r.passed, r.failed, r.skipped, r.took.Seconds(), state)
	return strings.Join(append([]string{line}, r.skips...), "\n      skipped: ")
}

// run boots the machine and returns a result for each suite, whether it ran or not.
func (m machine) run(ctx context.Context, kernel string, wanted []suite) []result {
	limit := 2 * bootLimit
	for _, s := range wanted {
		limit += s.limit + 20*time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	report := reader{kernel: kernel, wanted: wanted, logs: m.logs, out: m.out}
	err := m.boot(ctx, report.read)
	if err != nil {
		_, _ = fmt.Fprintf(m.out, "%s: %v\n", kernel, err)
	}
	results, bad := report.results()
	if bad || err != nil {
		_, _ = fmt.Fprintf(m.out, "%s: the console is in %s\n", kernel, m.console)
	} else {
		_ = os.Remove(m.console) // it has nothing of interest
	}
	return results
}

// boot runs qemu until the machine switches itself off, and passes the output of its second serial
// line to read. The processor is emulated, so that it runs anywhere.
func (m machine) boot(ctx context.Context, read func(io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-m", "4G", "-smp", "2", "-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot",
		"-serial", "file:"+m.console, "-serial", "stdio",
		"-kernel", m.image.kernel, "-initrd", m.image.initrd,
		"-append", "root=/dev/vda rw console=ttyS0 init=/init.sh quiet panic=1 mitigations=off audit=0",
		"-drive", "file="+m.image.disk+",format=raw,if=virtio,snapshot=on",
		"-drive", "file="+m.payload+",format=raw,if=virtio,readonly=on")
	cmd.Env = append(os.Environ(), "TMPDIR="+m.logs) // for the snapshot
	cmd.WaitDelay = 10 * time.Second
	var complaint strings.Builder
	cmd.Stderr = &complaint
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	readErr := read(said)
	if err := cmd.Wait(); err != nil {
		return errors.Join(readErr, ctx.Err(), fmt.Errorf("run qemu: %w\n%s", err, complaint.String()))
	}
	return readErr
}

// reader reads the output of guestScript.
type reader struct {
	kernel string
	wanted []suite
	logs   string
	out    io.Writer

	done  map[string]result
	at    *result // suite under way
	start time.Time
	lines []string          // lines that it has printed
	log   *os.File          // the same
	test  string            // test that the lines belong to
	last  map[string]string // newest message of each test
}

// outcome matches a line of `go test -v` that ends a test or a subtest.
var outcome = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+)`)

// quiet matches a line of `go test -v` that has no information about a failure.
var quiet = regexp.MustCompile(`^=== (RUN|PAUSE|CONT)|^ *--- PASS`)

// turn matches a line of `go test -v` that names the test of the next lines.
var turn = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S+)`)

// message matches a line that a test logs. The last one before a skip is its reason.
var message = regexp.MustCompile(`^ +\S+\.go:\d+: (.*)`)

// read reads until the machine ends.
func (r *reader) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r.line(strings.TrimRight(lines.Text(), "\r"))
	}
	return lines.Err()
}

// line handles one line.
func (r *reader) line(text string) {
	words := strings.Fields(text)
	switch {
	case strings.HasPrefix(text, "@@ booted "):
		_, _ = fmt.Fprintf(r.out, "%s: %s\n", r.kernel, strings.TrimPrefix(text, "@@ booted "))
	case strings.HasPrefix(text, "@@ begin "):
		r.begin(words[2])
	case strings.HasPrefix(text, "@@ end ") && r.at != nil && len(words) == 4:
		r.at.code, _ = strconv.Atoi(words[3])
		r.at.ended = true
		r.finish()
	case r.at != nil:
		r.lines = append(r.lines, text)
		_, _ = fmt.Fprintln(r.log, text) // so that the log can be followed
		r.note(text)
	}
}

// begin begins a suite.
func (r *reader) begin(name string) {
	r.at, r.start, r.lines = &result{kernel: r.kernel, suite: name}, time.Now(), nil
	r.test, r.last = "", map[string]string{}
	var err error
	if r.log, err = os.Create(filepath.Join(r.logs, r.kernel+"."+name+".log")); err != nil {
		_, _ = fmt.Fprintln(r.out, err)
	}
}

// note handles one line of a test: it counts an outcome, and adds the reason to a skip.
func (r *reader) note(text string) {
	if found := turn.FindStringSubmatch(text); found != nil {
		r.test = found[1]
	} else if found := message.FindStringSubmatch(text); found != nil {
		r.last[r.test] = found[1]
	}
	found := outcome.FindStringSubmatch(text)
	if found == nil {
		return
	}
	switch verdict, name := found[1], found[2]; verdict {
	case "PASS":
		r.at.passed++
	case "FAIL":
		r.at.failed++
	case "SKIP":
		r.at.skipped++
		r.at.skips = append(r.at.skips, name+": "+cmp.Or(r.last[name], "no reason given"))
	}
}

// finish prints the result of the current suite.
func (r *reader) finish() {
	for _, s := range r.wanted {
		if s.name == r.at.suite {
			r.at.tests = s.args == nil
		}
	}
	r.at.took = time.Since(r.start)
	if r.done == nil {
		r.done = map[string]result{}
	}
	r.done[r.at.suite] = *r.at
	_ = r.log.Close() // see begin
	if !r.at.ok() {
		said := slices.DeleteFunc(slices.Clone(r.lines), func(l string) bool { return quiet.MatchString(l) })
		_, _ = fmt.Fprintln(r.out, strings.Join(said[max(0, len(said)-shown):], "\n"))
	}
	_, _ = fmt.Fprintln(r.out, *r.at)
	r.at = nil
}

// results returns the results of all suites in their order, and whether one is bad. A suite that
// was cut off did not end.
func (r *reader) results() (all []result, bad bool) {
	if r.at != nil {
		r.finish()
	}
	for _, s := range r.wanted {
		res, ok := r.done[s.name]
		if !ok {
			res = result{kernel: r.kernel, suite: s.name}
			_, _ = fmt.Fprintln(r.out, res)
		}
		all, bad = append(all, res), bad || !res.ok()
	}
	return all, bad
}
