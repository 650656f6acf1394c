//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// piped HOW [VAR=value …]: starts the agent with a misbehaving reader of its output: "full" is a
// full pipe that is not read, "closed" a pipe whose reader has gone, "terminal" a separate
// terminal. It is the newest agent.
func cmdPiped(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	log, err := os.Create(ts.MkAbs(fmt.Sprintf("agent%d.log", len(w.agents)+1)))
	ts.Check(err)
	p := &process{cmd: exec.Command(filepath.Join(w.bin, "sikkerguard")), log: log, doneC: make(chan struct{})}
	p.cmd.Env = append(w.environ(ts, args[1:]), "PATH="+os.Getenv("PATH"), "GORACE=exitcode=66")
	var out *os.File
	switch args[0] {
	case "terminal":
		w.reader, out = terminal(ts)
		p.cmd.Stdin, p.cmd.SysProcAttr = out, &syscall.SysProcAttr{Setsid: true, Setctty: true}
	default:
		w.reader, out, err = os.Pipe()
		ts.Check(err)
		_, err = unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
		ts.Check(err)
		_, err = out.Write(bytes.Repeat([]byte{'\n'}, os.Getpagesize()))
		ts.Check(err)
	}
	if args[0] == "closed" {
		ts.Check(w.reader.Close())
	} else {
		reader := w.reader
		ts.Defer(func() { _ = reader.Close() })
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	w.run(ts, p)
	ts.Check(out.Close())
	w.agents = append(w.agents, p)
}

// terminal returns a new terminal: its master, and itself.
func terminal(ts *testscript.TestScript) (master, tty *os.File) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	ts.Check(err)
	ts.Check(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	return master, tty
}

// reads, ! reads: from now on the reader of piped reads, or it goes away.
func cmdReads(ts *testscript.TestScript, neg bool, _ []string) {
	w := of(ts)
	if neg {
		ts.Check(w.reader.Close())
		return
	}
	p, _ := w.agentLog(ts)
	go func() { _, _ = io.Copy(p.log, w.reader) }() // ends with the pipe
}

// status REGEXP: waits until /status has a matching line.
func cmdStatus(ts *testscript.TestScript, _ bool, args []string) {
	re := regexp.MustCompile("(?m)" + strings.Join(args, " "))
	waitFor(ts, "status "+re.String(), func() bool {
		cmdGet(ts, false, []string{"/status", "200"})
		raw, err := os.ReadFile(ts.MkAbs("get.txt"))
		ts.Check(err)
		return re.Match(raw)
	})
}

// stream SOURCE PORT RATE, ! stream: sends RATE connection requests per second until the script
// stops it or ends.
func cmdStream(ts *testscript.TestScript, neg bool, args []string) {
	w := of(ts)
	if neg {
		ts.Check(w.held["stream"].Close())
		return
	}
	src := netip.MustParseAddr(args[0])
	port, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	rate, err := strconv.Atoi(args[2])
	ts.Check(err)
	s := &stream{stopC: make(chan struct{}), doneC: make(chan struct{})}
	go s.run(time.Second/time.Duration(rate), func() {
		w.sender.SYN(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(serverAddr(src), uint16(port)))
	})
	w.hold(ts, "stream", s)
}

// stream is packets that are sent until it is closed.
type stream struct {
	once         sync.Once
	stopC, doneC chan struct{}
}

func (s *stream) run(every time.Duration, send func()) {
	defer close(s.doneC)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-s.stopC:
			return
		case <-ticker.C:
			send()
		}
	}
}

// Close returns when the last packet has been sent.
func (s *stream) Close() error {
	s.once.Do(func() { close(s.stopC) })
	<-s.doneC
	return nil
}

// told N SOURCE: checks that the lines of agent N about a source add up to the number of dropped
// packets in /status, as fetched by get.
func cmdTold(ts *testscript.TestScript, _ bool, args []string) {
	log, err := os.ReadFile(ts.MkAbs("agent" + args[0] + ".log"))
	ts.Check(err)
	logged := 0
	line := regexp.MustCompile(`BLOCKED ` + regexp.QuoteMeta(args[1]) + `:\S+ .* x(\d+)(\+?)`)
	for _, m := range line.FindAllStringSubmatch(string(log), -1) {
		n, err := strconv.Atoi(m[1])
		ts.Check(err)
		if m[2] != "" {
			ts.Fatalf("a count that is not exact: %s", m[0])
		}
		logged += n
	}
	raw, err := os.ReadFile(ts.MkAbs("get.txt"))
	ts.Check(err)
	var status struct{ Dropped struct{ PacketsIPv4 int } }
	ts.Check(json.Unmarshal(raw, &status))
	if logged != status.Dropped.PacketsIPv4 || logged == 0 {
		ts.Fatalf("the log has %d packets, and %d were dropped", logged, status.Dropped.PacketsIPv4)
	}
}

// unguarded DURATION: checks that within that time the kernel has no table of ours any more.
func cmdUnguarded(ts *testscript.TestScript, _ bool, args []string) {
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	waitFor(ts, "the table to go", func() bool {
		cmd := exec.Command("nft", "list", "tables")
		var out bytes.Buffer
		cmd.Stdout = &out
		ts.Check(of(ts).server.Start(cmd))
		ts.Check(cmd.Wait())
		return !strings.Contains(out.String(), "sikkerguard")
	})
	if took := time.Since(start); took > within {
		ts.Fatalf("the table went after %v, want at most %v", took, within)
	}
}
