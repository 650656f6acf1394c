//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// nft ARGS: runs nft on the server; its output goes to nft.txt.
func cmdNft(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("nft", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(of(ts).server.Start(cmd))
	err := cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs("nft.txt"), out.Bytes(), 0o600))
	if (err != nil) != neg {
		ts.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
}

// on PROGRAM ARGS: runs a program on the server; its output goes to on.txt.
func cmdOn(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("on.txt"), []byte(of(ts).server.Run(args[0], args[1:]...)), 0o600))
}

// documented PAGE TEXT FILE: writes the shell block that contains TEXT on a page of docs to FILE.
func cmdDocumented(ts *testscript.TestScript, _ bool, args []string) {
	page, err := os.ReadFile(filepath.Join("../docs", args[0]))
	ts.Check(err)
	for i, part := range strings.Split(string(page), "```") {
		if code, isShell := strings.CutPrefix(part, "sh\n"); i%2 == 1 && isShell && strings.Contains(code, args[1]) {
			ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(code), 0o600))
			return
		}
	}
	ts.Fatalf("docs/%s has no shell with %q in it", args[0], args[1])
}

// firewall FILE: writes the whole firewall of the server to FILE, without counters and the time.
func cmdFirewall(ts *testscript.TestScript, _ bool, args []string) {
	var text strings.Builder
	for _, c := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"ipset", "save"}, {"nft", "list", "ruleset"}} {
		text.WriteString(of(ts).server.Run(c[0], c[1:]...))
	}
	varying := regexp.MustCompile(`(?m)^# (Generated|Completed).*\n|\[\d+:\d+\]|packets \d+ bytes \d+`)
	plain := varying.ReplaceAllString(text.String(), "")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(plain), 0o600))
}

// run CODE ARG …: runs another command of the program, which must exit with CODE; its output goes
// to run.txt.
func cmdRun(ts *testscript.TestScript, _ bool, args []string) {
	of(ts).command(ts, args[0], "run.txt", args[1:]...)
}

// pull CODE [ARG …]: runs `sikkerguard pull`; its output goes to pull.txt.
func cmdPull(ts *testscript.TestScript, _ bool, args []string) {
	of(ts).command(ts, args[0], "pull.txt", append([]string{"pull"}, args[1:]...)...)
}

func (w *world) command(ts *testscript.TestScript, code, file string, args ...string) {
	cmd := exec.Command(filepath.Join(w.bin, "sikkerguard"), args...)
	cmd.Env = []string{"SIKKER_STATE_DIR=" + ts.MkAbs("state")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(w.server.Start(cmd))
	_ = cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs(file), out.Bytes(), 0o600))
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != code {
		ts.Fatalf("exit code %s, want %s\n%s", got, code, out.String())
	}
}

// ip ARGS: runs ip on the server.
func cmdIP(ts *testscript.TestScript, _ bool, args []string) { of(ts).server.Run("ip", args...) }

// reports: writes the rows that the simulator accepted to reports.txt, one per line, sorted.
func cmdReports(ts *testscript.TestScript, _ bool, _ []string) {
	_, answer := of(ts).ask(ts, http.MethodGet, "http://"+of(ts).api+"/_sim/reports", "")
	var rows []struct{ IP, Category, Protocol, Comment string }
	ts.Check(json.Unmarshal([]byte(answer), &rows))
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = fmt.Sprintf("%s %s %q %s\n", r.IP, r.Category, r.Protocol, r.Comment)
	}
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs("reports.txt"), []byte(strings.Join(lines, "")), 0o600))
}

// nflog GROUP, ! nflog GROUP: another program takes the NFLOG group until the script ends, or
// releases it.
func cmdNflog(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["nflog "+args[0]].Close())
		return
	}
	group, err := strconv.ParseUint(args[0], 10, 16)
	ts.Check(err)
	s := sensor.New(sensor.Options{Group: uint16(group)})
	of(ts).server.Do(func() { err = s.Open() })
	ts.Check(err)
	of(ts).hold(ts, "nflog "+args[0], s)
}

// port N, ! port N: another program listens on 127.0.0.1 port N until the script ends, or no
// longer.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["port "+args[0]].Close())
		return
	}
	var (
		l   net.Listener
		err error
	)
	of(ts).server.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:"+args[0]) })
	ts.Check(err)
	of(ts).hold(ts, "port "+args[0], l)
}

// lock FILE, ! lock FILE: another agent holds the lock FILE until the script ends, or releases it.
func cmdLock(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["lock "+args[0]].Close())
		return
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	of(ts).hold(ts, "lock "+args[0], f)
}

// hold stores something that another program holds until the script ends.
func (w *world) hold(ts *testscript.TestScript, what string, c io.Closer) {
	w.held[what] = c
	ts.Defer(func() { _ = c.Close() })
}

// get PATH STATUS: requests PATH of the health endpoint until it answers with this status; the body
// goes to get.txt.
func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	waitFor(ts, strings.Join(args, " "), func() bool {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet,
			"http://127.0.0.1:8080"+args[0], nil)
		ts.Check(err)
		res, err := of(ts).client.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }()
		raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs("get.txt"), raw, 0o600))
		return res.StatusCode == want
	})
}
