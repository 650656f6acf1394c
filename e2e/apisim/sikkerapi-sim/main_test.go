package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list, addrFile := filepath.Join(dir, "list"), filepath.Join(dir, "addr")
	if err := os.WriteFile(list, []byte("203.0.113.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	outR, outW := io.Pipe()
	doneC := make(chan error, 1)
	go func() {
		doneC <- serve(ctx, []string{"-list", list, "-key", "sk_test_1", "-addr-file", addrFile, "-limit", "9"},
			outW, io.Discard)
	}()
	line := make([]byte, 100)
	n, err := outR.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := os.ReadFile(addrFile)
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + strings.TrimSpace(string(addr))
	if got, want := string(line[:n]), "listening on "+url+"\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	client, err := sikkerapi.New("sk_test_1", sikkerapi.WithBaseURL(url))
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	res, err := client.BlacklistJSON(t.Context(), sikkerapi.BlacklistQuery{})
	if err != nil || len(res.Entries) != 1 || res.Meta.Limit != 9 {
		t.Errorf("blacklist: %+v, %v", res, err)
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Errorf("stop: %v", err)
	}
	if left, err := filepath.Glob(addrFile + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-other"}, {"extra"}, {"-tier", "gold"}, {"-list", "does/not/exist"}, {"-listen", "127.0.0.1:x"}, {
			"-addr-file", "does/not/exist",
		},
	} {
		var usage bytes.Buffer
		if err := serve(t.Context(), args, io.Discard, &usage); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
