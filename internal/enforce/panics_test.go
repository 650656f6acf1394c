package enforce

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// TestPanicOfASurvey: the survey that panicked is made when surveys are made again.
func TestPanicOfASurvey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		surveys := 0
		s := newSurveyor(func(context.Context) host.Whitelist {
			if surveys++; surveys == 1 {
				panic("no such route")
			}
			return host.Whitelist{Number: uint64(surveys)}
		}, func(context.Context) host.Whitelist { return host.Whitelist{Number: uint64(surveys)} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.ask()
		if _, ok := errors.AsType[*panics.Error](s.Run(ctx)); !ok {
			t.Error("the panic is no error")
		}
		if err := s.Run(ctx); err != nil || surveys != 2 {
			t.Errorf("%v after %d surveys", err, surveys)
		}
	})
}

// panickyBody is a list that cannot be read without a panic.
type panickyBody struct{}

func (panickyBody) Read([]byte) (int, error) { panic("no such line") }

// TestPanicOfAList: a list that makes the parser panic is a pull that did not succeed, and a kept
// one is left out: neither ends this process, nor each one that follows.
func TestPanicOfAList(t *testing.T) {
	t.Parallel()
	_, err := vetted(panickyBody{}, vet.Options{})
	if _, ok := errors.AsType[*panics.Error](err); !ok {
		t.Errorf("a list that panics is %v", err)
	}
	if _, err := readDisk(time.Minute, "reading", func() (int, error) { panic("no such file") }); err == nil {
		t.Error("a reading that panics succeeds")
	}
}
