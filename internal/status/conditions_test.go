package status

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

const conditionsHead = `# Conditions

A condition is a state in which the agent is less than well. ''/status'' lists each condition that holds, with a detail and
the time since when it holds. The metric ''sikkerguard_condition'' has a figure for each. Several conditions can hold at once,
and each ends by itself when its cause ends.

| severity | meaning |
|---|---|
| unprotected | no rules are active, or not the wanted ones; ''/healthz'' answers 503 |
| degraded | something is wrong; rules that are active stay active |
| warning | the operator should know it; the state stays |

This page is generated from the table that the agent uses (''make docs'').

| code | severity | message | remedy |
|---|---|---|---|
`

// TestConditionsPage checks that docs/conditions.md is the table, and that the page for operators
// links to it.
func TestConditionsPage(t *testing.T) {
	t.Parallel()
	var page strings.Builder
	page.WriteString(strings.ReplaceAll(conditionsHead, "''", "`"))
	for _, c := range rows() {
		message := strings.ReplaceAll(c.message, "|", "\\|")
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", c.code, c.severity, message, c.remedy)
	}
	golden(t, "../../docs/conditions.md", page.String())
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil || !strings.Contains(string(operations), "(conditions.md)") {
		t.Errorf("docs/operations.md does not link to conditions.md, %v", err)
	}
}

// TestConditionTable checks that codes are unique, that each row is whole, and that a condition is
// hidden only by a row before it.
func TestConditionTable(t *testing.T) {
	t.Parallel()
	rank := []Severity{SeverityUnprotected, SeverityDegraded, SeverityWarning}
	codes := map[Code]bool{}
	last := 0
	for _, c := range rows() {
		whole := c.message != "" && !strings.HasSuffix(c.message, ".") && strings.HasSuffix(c.remedy, ".")
		if codes[c.code] || !whole {
			t.Errorf("bad row: %+v", c)
		}
		r := slices.Index(rank, c.severity)
		if r < last {
			t.Errorf("%s: is graver than the row before it", c.code)
		}
		last, codes[c.code] = r, true
		if c.hiddenBy != "" && !codes[c.hiddenBy] {
			t.Errorf("%s: is hidden by %s, which is not a row before it", c.code, c.hiddenBy)
		}
	}
}

// TestSeveralConditions checks that several conditions can hold at once, that all show, that each
// ends by itself, and that the gravest decides the state.
func TestSeveralConditions(t *testing.T) {
	t.Parallel()
	b, _ := testBoard(t, nil)
	b.Update(func(s *Status) { s.Enforcing = StateActive })
	check := func(state State, reason string, codes ...Code) {
		t.Helper()
		s := b.Latest()
		var got []Code
		for _, c := range s.Conditions {
			got = append(got, c.Code)
		}
		if s.State != state || s.Reason != reason || !slices.Equal(got, codes) {
			t.Errorf("got %s %q %q, want %s %q %q", s.State, s.Reason, got, state, reason, codes)
		}
	}
	subject := func(code Code) string { return rowOf(code).message + ": " }
	wl, re, ru, old := subject(CondWhitelist), subject(CondRefresh), subject(CondRules), subject(CondOld)
	b.SetCondition(CondWhitelist, errors.New("EPERM"))
	check(StateDegraded, wl+"EPERM", CondWhitelist)
	b.SetCondition(CondRefresh, errors.New("503"))
	check(StateDegraded, re+"503; "+wl+"EPERM", CondRefresh, CondWhitelist)
	b.SetCondition(CondOld, errors.New("it is old"))
	check(StateDegraded, re+"503; "+wl+"EPERM", CondRefresh, CondOld, CondWhitelist)
	b.SetCondition(CondRules, errors.New("gone"))
	check(StateUnprotected, ru+"gone; "+re+"503; "+wl+"EPERM", CondRules, CondRefresh, CondOld, CondWhitelist)
	b.SetCondition(CondRefresh, nil)
	check(StateUnprotected, ru+"gone; "+old+"it is old; "+wl+"EPERM", CondRules, CondOld, CondWhitelist)
	b.SetCondition(CondRules, nil)
	b.SetCondition(CondOld, nil)
	check(StateDegraded, wl+"EPERM", CondWhitelist)
	since := b.Latest().Conditions[0].Since
	b.Update(func(s *Status) { s.Conditions[0].Since = since.Add(-time.Hour) })
	b.SetCondition(CondWhitelist, errors.New("EBUSY"))
	check(StateDegraded, wl+"EBUSY", CondWhitelist)
	if got := b.Latest().Conditions[0].Since; !got.Equal(since.Add(-time.Hour)) {
		t.Errorf("a condition that continues began at %v", got)
	}
	b.SetCondition(CondWhitelist, nil)
	check(StateActive, "")
}

// TestReasonNamesItsSubject checks that the reason has the message of each condition before its
// detail, and the messages alone if there is no room for all details.
func TestReasonNamesItsSubject(t *testing.T) {
	t.Parallel()
	b, _ := testBoard(t, nil)
	b.Update(func(s *Status) { s.Enforcing = StateActive })
	own, refresh := rowOf(CondCustom).message, rowOf(CondRefresh).message
	b.SetCondition(CondCustom, errors.New("the file is empty"))
	if got, want := b.Now().Reason, own+": the file is empty"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := strings.Repeat("x", maxText)
	b.SetCondition(CondCustom, errors.New(long))
	if got := b.Now().Reason; len(got) > maxText+len("…") || !strings.HasPrefix(got, own+": xxx") {
		t.Errorf("with a long detail: %q", got)
	}
	b.SetCondition(CondRefresh, errors.New(long))
	if got, want := b.Now().Reason, refresh+"; "+own; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTransitionsAreLoggedOnce checks that the begin and the end of a condition are logged, and not
// its later details. Its part logs a quiet condition. The condition of the state directory has the
// reason why others hold, so that one line suffices.
func TestTransitionsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	b, logs := testBoard(t, nil)
	unusable := &statedir.UnusableError{Err: errors.New("another user can write to it")}
	for _, set := range []struct {
		code Code
		err  error
		want string // the message of the line; empty for none
	}{
		{CondHealth, nil, ""},
		{CondHealth, errors.New("the port is taken"), Message(CondHealth)},
		{CondHealth, errors.New("the port is still taken"), ""},
		{CondHealth, nil, rowOf(CondHealth).ended},
		{CondHealth, nil, ""},
		{CondRefresh, errors.New("503"), ""},
		{CondRefresh, nil, ""},
		{CondControl, unusable, ""},
		{CondStateDir, unusable, Message(CondStateDir)},
	} {
		b.SetCondition(set.code, set.err)
		got := ""
		for _, l := range logs.TakeAll() {
			got += l.Message
			if set.err != nil && (l.Level != zap.WarnLevel || l.ContextMap()["remedy"] != rowOf(set.code).remedy) {
				t.Errorf("%s: the line is %+v", set.code, l)
			}
		}
		if got != set.want {
			t.Errorf("%s, %v: logs %q, want %q", set.code, set.err, got, set.want)
		}
	}
}
