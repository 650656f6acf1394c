package feed

import (
	"os"
	"path/filepath"
	"sync"
)

// Lost is the copies, the lists and the addresses of names, that another program removed, replaced
// or changed since this Feed wrote or read them.
type Lost struct {
	List, Custom, Aside, Names bool
}

// Lost returns the copies that another program removed, replaced or changed.
func (f *Feed) Lost() Lost {
	return Lost{
		List:   f.copies.lost(f.o.StateDir, copyName),
		Custom: f.copies.lost(f.o.StateDir, f.o.CustomCopy),
		Aside:  f.copies.lost(f.o.StateDir, asideName),
		Names:  f.copies.lost(f.o.StateDir, namesName),
	}
}

// copies holds the state of each copy when this process last wrote or read it.
type copies struct {
	mu    sync.Mutex // held while a copy is replaced or examined; the disk may hang meanwhile
	files map[string]os.FileInfo
}

// change calls f, which reads or replaces a copy, and stores the state of the copy. If f fails, the
// previous state stays.
func (c *copies) change(dir, name string, f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f(); err != nil {
		return err
	}
	if c.files == nil {
		c.files = map[string]os.FileInfo{}
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	if err != nil { // f or another program removed it in this moment
		delete(c.files, name)
		return nil
	}
	c.files[name] = info
	return nil
}

// lost reports whether the state of a copy differs from the one that change stored.
func (c *copies) lost(dir, name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.files[name]
	if known == nil {
		return false
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	return err != nil || !sameState(known, info)
}
