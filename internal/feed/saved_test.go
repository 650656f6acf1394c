package feed_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/feed"
)

// saved returns the saved lists of a feed of SikkerAPI in dir, as of a new run.
func saved(t *testing.T, dir string) *feed.Saved {
	t.Helper()
	return savedOf(dir, feed.SikkerOptions{URL: "https://a.example", Key: "sk_test_feed", ScoreMin: 50})
}

func savedOf(dir string, o feed.SikkerOptions) *feed.Saved {
	return feed.NewSaved(feed.NewDir(dir, nil), "blacklist", feed.NewSikker(o))
}

// identity is that of the lists of saved.
func identity() feed.Identity {
	return feed.NewSikker(feed.SikkerOptions{URL: "https://a.example", Key: "sk_test_feed", ScoreMin: 50}).Identity()
}

func list(ss ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return blocklist.New(ps)
}

// load reads a saved list and its body.
func load(s *feed.Saved) (c feed.Copy, body string, err error) {
	c, err = s.Load(keep(&body))
	return c, body, err
}

// keep returns a Use that stores the body.
func keep(body *string) feed.Use {
	return func(_ feed.Copy, r io.Reader) {
		raw, _ := io.ReadAll(r) // the caller gets the error
		*body = string(raw)
	}
}

// TestSavedIsNoPipe checks that a copy that is a named pipe, whose reader would wait for ever for a
// writer, is an error at once.
func TestSavedIsNoPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "blacklist.txt")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	errC := make(chan error, 1)
	go func() {
		_, err := saved(t, dir).Load(nil)
		errC <- err
	}()
	select {
	case err := <-errC:
		if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("got %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for a writer")
		if w, err := os.OpenFile(pipe, os.O_WRONLY, 0); err == nil { // releases the reader
			_ = w.Close()
		}
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	f := saved(t, dir)
	if _, err := f.Load(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Fatalf("before: got %v, want %v", err, feed.ErrNoCopy)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".blacklist.txt123"), nil, 0o600); err != nil { // as after a kill
		t.Fatal(err)
	}
	pulled := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	for _, l := range []blocklist.Blocklist{
		list("203.0.113.9/32"), list("203.0.113.9/32", "198.51.100.0/24", "2001:db8::1/128"), {},
	} {
		if err := f.Save(l, pulled); err != nil {
			t.Fatal(err)
		}
		got, body, err := load(saved(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		want, text := feed.Copy{Fetched: pulled, Identity: identity(), Entries: l.Len()}, ""
		for p := range l.All() {
			text += strings.TrimSuffix(strings.TrimSuffix(p.String(), "/32"), "/128") + "\n"
		}
		if diff := cmp.Diff(want, got); diff != "" || body != text {
			t.Errorf("copy (-want +got):\n%s\nbody %q, want %q", diff, body, text)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "blacklist.txt"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the copy: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left in the state directory: %v, %v", files, err)
	}
}

// TestSavedDamaged changes a copy in every way a disk or a person might.
func TestSavedDamaged(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	if err := saved(t, source).Save(list("203.0.113.9/32", "203.0.113.10/32"), time.Now()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(source, "blacklist.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"bad empty":          {},
		"bad half":           good[:len(good)/2],
		"bad last byte gone": good[:len(good)-1],
		"bad byte changed":   bytes.Replace(good, []byte("203.0.113.10"), []byte("203.0.113.11"), 1),
		"bad time":           bytes.Replace(good, []byte("pulled: "), []byte("pulled: x"), 1),
		"bad no time":        bytes.Replace(good, []byte("pulled: "), []byte("pushed: "), 1),
		"bad count":          bytes.Replace(good, []byte("entries: "), []byte("entries: x"), 1),
		"bad no checksum":    bytes.Replace(good, []byte("sha256"), []byte("sha"), 1),
		"bad other format":   []byte("203.0.113.9\n"),
		"bad zeroes":         make([]byte, 4096),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "blacklist.txt")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := saved(t, dir).Load(nil)
		var damaged *feed.DamagedError
		if !errors.As(err, &damaged) {
			t.Errorf("%s: got %v, want a *DamagedError", name, err)
			continue
		}
		if raw, err := os.ReadFile(damaged.Aside); err != nil || !bytes.Equal(raw, bad) {
			t.Errorf("%s: not set aside: %v", name, err)
		}
		if _, err := saved(t, dir).Load(nil); !errors.Is(err, feed.ErrNoCopy) {
			t.Errorf("%s: the second time: %v", name, err)
		}
	}
}

// TestSavedWhateverTheClock checks that a copy of the future or of long ago is accepted: its
// checksum is right, and a clock was wrong.
func TestSavedWhateverTheClock(t *testing.T) {
	t.Parallel()
	for _, pulled := range []time.Time{time.Unix(0, 0), time.Now().Add(2 * time.Hour), time.Now().AddDate(100, 0, 0)} {
		dir := t.TempDir()
		if err := saved(t, dir).Save(list("203.0.113.9/32"), pulled); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c, body, err := load(saved(t, dir))
			if err != nil || !c.Fetched.Equal(pulled.Truncate(time.Second)) || body != "203.0.113.9\n" {
				t.Errorf("pulled at %s: got %+v, %v", pulled, c, err)
			}
		}
	}
}

// TestSavedBodyIsVerifiedWhole checks that the checksum is that of the whole body, also if the
// parser stops early.
func TestSavedBodyIsVerifiedWhole(t *testing.T) {
	t.Parallel()
	some := func(_ feed.Copy, body io.Reader) { _, _ = io.ReadFull(body, make([]byte, 3)) }
	for _, use := range []feed.Use{nil, some} {
		dir := t.TempDir()
		if err := saved(t, dir).Save(repeated(100_000), time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := saved(t, dir).Load(use); err != nil {
			t.Errorf("whole: %v", err)
		}
		if err := os.Truncate(filepath.Join(dir, "blacklist.txt"), 1_000_000); err != nil {
			t.Fatal(err)
		}
		if _, err := saved(t, dir).Load(use); !errors.As(err, new(*feed.DamagedError)) {
			t.Errorf("cut: got %v, want a *DamagedError", err)
		}
	}
}

// TestSavedIsStreamed checks that neither writing nor reading a saved list holds its text.
func TestSavedIsStreamed(t *testing.T) { // not parallel: it measures allocations
	s, l := saved(t, t.TempDir()), repeated(200_000) // of 2.6 MB
	lines := 0
	count := func(_ feed.Copy, body io.Reader) {
		for scanner := bufio.NewScanner(body); scanner.Scan(); lines++ {
		}
	}
	for name, f := range map[string]func() error{
		"save": func() error { return s.Save(l, time.Now()) },
		"load": func() error { _, err := s.Load(count); return err },
	} {
		if name == "load" {
			if err := s.Save(l, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := f()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; err != nil || n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated, %v", name, n, err)
		}
	}
	if lines != 200_000 {
		t.Errorf("%d lines were read", lines)
	}
}

// repeated returns a list of n addresses.
func repeated(n int) blocklist.Blocklist {
	var b blocklist.Builder
	for i := range n {
		b.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	return b.List()
}

func TestSaveErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := saved(t, filepath.Join(file, "state")).Save(list("203.0.113.9/32"), time.Now()); err == nil {
		t.Error("saved a list below a file")
	}
	dir := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "blacklist.txt")); err != nil {
		t.Fatal(err)
	}
	if _, err := saved(t, dir).Load(nil); err == nil || errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("read a device: %v", err)
	}
}

// TestRequest checks that every part of a request changes its identity, and that the identity does
// not show the key.
func TestRequest(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, o := range []feed.SikkerOptions{
		{URL: "https://a.example", Key: "sk_test_a", ScoreMin: 50},
		{URL: "https://b.example", Key: "sk_test_a", ScoreMin: 50},
		{URL: "https://a.example", Key: "sk_test_b", ScoreMin: 50},
		{URL: "https://a.example", Key: "sk_test_a", ScoreMin: 51},
	} {
		r := feed.NewSikker(o).Identity().Request
		source := feed.NewSikker(feed.SikkerOptions{URL: "https://a.example", ScoreMin: 50}).Identity().Source
		same := o.URL == "https://a.example" && o.ScoreMin == 50
		if s := feed.NewSikker(o).Identity().Source; (s == source) != same {
			t.Errorf("source %q of %+v", s, o)
		}
		if seen[r] || strings.Contains(r, "sk_test") {
			t.Errorf("request %q of %+v", r, o)
		}
		seen[r] = true
	}
}

// TestCopiesAreWrittenInTheStateDir checks that no file is written in TMPDIR, a directory that
// other users may write to.
func TestCopiesAreWrittenInTheStateDir(t *testing.T) {
	tmp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	before := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(tmp, before, before); err != nil {
		t.Fatal(err)
	}
	f := saved(t, dir)
	if err := f.Save(blocklist.Blocklist{}, before); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(tmp); err != nil || !info.ModTime().Equal(before) {
		t.Errorf("TMPDIR was written to: %v, %v", info.ModTime(), err)
	}
}

// TestSavedEntriesAreWhole checks that an entry that was split around other addresses is saved as
// it came: those addresses may be others in the next run.
func TestSavedEntriesAreWhole(t *testing.T) {
	t.Parallel()
	f := saved(t, t.TempDir())
	if err := f.Save(list("198.51.100.0/24").Without(list("198.51.100.9/32")), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, body, err := load(f); err != nil || body != "198.51.100.0/24\n" {
		t.Errorf("got %q, %v", body, err)
	}
}

// TestSavedIsNoLink checks that a link in the place of a copy is not followed, even to a good copy.
func TestSavedIsNoLink(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	if err := saved(t, other).Save(list("203.0.113.9/32"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "blacklist.txt"), filepath.Join(dir, "blacklist.txt")); err != nil {
		t.Fatal(err)
	}
	if c, err := saved(t, dir).Load(nil); err == nil || errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("got %+v, %v", c, err)
	}
}
