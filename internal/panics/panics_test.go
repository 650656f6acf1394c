package panics

import (
	"errors"
	"strings"
	"testing"
)

// TestContain checks that an error passes, and that a panic becomes an *Error that names its
// origin.
func TestContain(t *testing.T) {
	t.Parallel()
	want := errors.New("unchanged")
	if err := Contain(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("an error becomes %v", err)
	}
	if err := Contain(func() error { return nil }); err != nil {
		t.Errorf("success becomes %v", err)
	}
	var none []int
	err := Contain(func() error { none[len(none)]++; return nil })
	p, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(err.Error(), "index out of range") {
		t.Fatalf("a panic becomes %v", err)
	}
	if !strings.HasPrefix(p.Stack, "panics.TestContain.func") || !strings.Contains(p.Stack, "panics_test.go:") {
		t.Errorf("stack: %s", p.Stack)
	}
}
