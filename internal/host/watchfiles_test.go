package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFileEvents checks, without the regular check, that the kernel reports a change of a file by
// whatever way it changes, and that it reports nothing while the files rest.
func TestFileEvents(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"etc/resolv.conf":       "nameserver 192.0.2.1\n",
		"elsewhere/resolv.conf": "nameserver 192.0.2.4\n",
	})
	file := filepath.Join(dir, "etc/resolv.conf")
	w := openFileWatch(dir)
	w.follow()
	doneC := make(chan struct{})
	go func() {
		w.readEvents()
		close(doneC)
	}()
	write := func(name string) error {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		return os.WriteFile(name, []byte("nameserver 192.0.2.9\n"), 0o600)
	}
	for _, tt := range []struct {
		name   string
		change func() error
	}{
		{"written in place", func() error { return write(file) }},
		{"replaced by rename", func() error { return os.Rename(filepath.Join(dir, "elsewhere/resolv.conf"), file) }},
		{"removed", func() error { return os.Remove(file) }},
		{"a link to another directory", func() error { return os.Symlink("../elsewhere/resolv.conf", file) }},
		{"its target", func() error { return write(filepath.Join(dir, "elsewhere/resolv.conf")) }},
		{"the resolvers behind systemd-resolved, of directories that are new", func() error {
			return write(filepath.Join(dir, stubConf))
		}},
		{"their file once more", func() error { return write(filepath.Join(dir, stubConf)) }},
	} {
		for quiet := false; !quiet; { // the events of the change before
			select {
			case <-w.newsC:
			case <-time.After(100 * time.Millisecond):
				quiet = true
			}
		}
		if err := tt.change(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.newsC:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: no event", tt.name)
		}
	}
	w.close()
	<-doneC
}

// TestManyEventsAreOneChange writes many files beside the resolver file. The number of reported
// changes depends on the time that it takes, and not on their number.
func TestManyEventsAreOneChange(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n"})
	w := openFileWatch(dir)
	w.follow()
	doneC := make(chan struct{})
	go func() {
		w.readEvents()
		close(doneC)
	}()
	began, news := time.Now(), 0
	for range 300 {
		if err := os.WriteFile(filepath.Join(dir, "etc/another"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.newsC:
			news++
		case <-time.After(time.Millisecond):
		}
	}
	if most := 2 + int(time.Since(began)/eventPause); news == 0 || news > most {
		t.Errorf("%d changes are reported in %v, want 1 to %d", news, time.Since(began), most)
	}
	w.close()
	<-doneC
}
