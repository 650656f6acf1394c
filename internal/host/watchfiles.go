package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/clock"
)

const (
	// filesInterval is the time between two readings of the resolver files while they differ from
	// the last reading by Local. Reading both takes 30 µs.
	filesInterval = 250 * time.Millisecond
	// statInterval is the time between two checks for a change that the kernel does not report, such
	// as a file system that is mounted over a file.
	statInterval = 5 * time.Second
	// eventPause is the time between two readings of events. A program that writes many files into
	// the same directory would otherwise cost a reading for each.
	eventPause = 50 * time.Millisecond
)

// fileEvents are the changes of a file that the kernel reports, by its directory or by itself.
const fileEvents = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// WatchFiles calls changed every filesInterval while the resolver files differ from the last
// reading by Local. It returns nil when ctx ends. A difference counts if two readings in a row
// agree. It reads after each event of the kernel, and when the files differ in a check every
// statInterval. The check finds a file that was mounted over, and makes up for a kernel without
// events.
func (h *Host) WatchFiles(ctx context.Context, changed func()) error {
	w := openFileWatch(h.o.Root)
	ctx, cancel := context.WithCancel(ctx)
	doneC := make(chan struct{})
	go func() {
		var both sync.WaitGroup
		both.Go(w.readEvents)
		both.Go(func() { w.check(ctx) })
		both.Wait()
		close(doneC)
	}()
	h.compareFiles(ctx, w.newsC, changed)
	cancel()
	w.close()
	hangs := time.NewTimer(h.files.timeout)
	defer hangs.Stop()
	select {
	case <-doneC:
	case <-hangs.C: // a goroutine that waits for a file system ends with the process
	}
	return nil
}

// compareFiles is WatchFiles with any source of news.
func (h *Host) compareFiles(ctx context.Context, newsC <-chan struct{}, changed func()) {
	again := time.NewTimer(filesInterval)
	defer again.Stop()
	var (
		before  conf
		differs bool            // before differs from the reading by Local
		waitC   <-chan struct{} // newsC, or nil while the next reading is due anyway
	)
	for {
		select {
		case <-ctx.Done():
			return
		case <-waitC:
		case <-again.C:
		}
		r := h.files.read()
		h.mu.Lock()
		same := h.conf == nil || r.equal(*h.conf)
		h.mu.Unlock()
		if !same && differs && r.equal(before) { // a file may be incomplete while it is written
			changed()
		}
		before, differs, waitC = r, !same, newsC
		switch {
		case differs:
			again.Reset(filesInterval)
			waitC = nil // readings that confirm each other are filesInterval apart
		case r.err != nil: // a file system that answers again sends no event
			again.Reset(statInterval)
		default:
			again.Stop()
		}
	}
}

// fileWatch reports possible changes of the resolver files below root.
type fileWatch struct {
	root  string
	newsC chan struct{} // capacity 1: the files may have changed
	file  *os.File      // of inotify; nil if the kernel has none to give
}

// openFileWatch opens the source of events. If the kernel has none to give, check is left.
func openFileWatch(root string) *fileWatch {
	w := &fileWatch{root: root, newsC: make(chan struct{}, 1)}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		w.file = os.NewFile(uintptr(fd), "inotify")
	}
	return w
}

// close ends readEvents.
func (w *fileWatch) close() {
	if w.file != nil {
		_ = w.file.Close() // nothing was written
	}
}

// readEvents reports events until close.
func (w *fileWatch) readEvents() {
	if w.file == nil {
		return
	}
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		w.follow() // first, so that no change after the next reading is missed
		offer(w.newsC)
		time.Sleep(eventPause)
	}
}

// follow subscribes to the events of the files, of their directories, and of those that symbolic
// links lead to. Of a path that does not exist it takes the nearest directory above. A path that is
// subscribed to already is not subscribed to twice.
func (w *fileWatch) follow() {
	if w.file == nil {
		return
	}
	for _, path := range w.paths() {
		_ = w.add(path) // check finds the changes of a path that cannot be watched
		for dir := filepath.Dir(path); errors.Is(w.add(dir), unix.ENOENT) && dir != w.root && dir != "/"; {
			dir = filepath.Dir(dir)
		}
	}
}

// maxLinks bounds the symbolic links of one path, which may lead to each other.
const maxLinks = 8

// paths returns the resolver files, and the files that they are links to, which need not exist.
func (w *fileWatch) paths() []string {
	var all []string
	for _, name := range []string{resolvConf, stubConf} {
		path := filepath.Join(w.root, filepath.FromSlash(name))
		all = append(all, path)
		for range maxLinks {
			target, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = target
			all = append(all, path)
		}
	}
	return all
}

// add subscribes to the events of a path.
func (w *fileWatch) add(path string) (err error) {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		_, err = unix.InotifyAddWatch(int(fd), path, fileEvents)
	})
	return errors.Join(err, cerr)
}

// check reports a change of the files' metadata, every statInterval until ctx ends. A file system
// that hangs keeps it, and nothing else.
func (w *fileWatch) check(ctx context.Context) {
	ticker := clock.NewTicker(ctx, statInterval)
	defer ticker.Stop()
	w.follow()
	before := w.stats()
	offer(w.newsC)
	for ticker.Wait() {
		if now := w.stats(); now != before {
			before = now
			w.follow()
			offer(w.newsC)
		}
	}
}

// fileStats are the properties that a change of the resolver files changes.
type fileStats [2]struct {
	device, inode uint64
	size          int64
	modified      unix.Timespec
	changed       unix.Timespec
	missing       bool
}

// stats returns the properties of the files now.
func (w *fileWatch) stats() (all fileStats) {
	for i, name := range []string{resolvConf, stubConf} {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(w.root, filepath.FromSlash(name)), &st)
		all[i].missing = errors.Is(err, fs.ErrNotExist)
		if err == nil {
			all[i].device, all[i].inode, all[i].size = st.Dev, st.Ino, st.Size
			all[i].modified, all[i].changed = st.Mtim, st.Ctim
		}
	}
	return all
}

// offer puts a value into a channel of capacity 1, unless it has one.
func offer(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
