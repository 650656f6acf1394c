package feed

import (
	"os"
	"path/filepath"
	"sync"
)

// Lost names the copies that another program removed, replaced or changed since this Feed wrote or read
// them: the lists, and the addresses of names.
type Lost struct {
	List, Custom, Aside, Names bool
}

// Lost looks for copies that another program removed, replaced or changed.
func (f *Feed) Lost() Lost {
	return Lost{
		List:   f.copies.lost(f.o.StateDir, copyName),
		Custom: f.copies.lost(f.o.StateDir, f.o.CustomCopy),
		Aside:  f.copies.lost(f.o.StateDir, asideName),
		Names:  f.copies.lost(f.o.StateDir, namesName),
	}
}

// copies are the states of the copies as this process wrote or read them last.
type copies struct {
	mu    sync.Mutex // held while a copy is replaced or looked at; the disk may hang then
	files map[string]os.FileInfo
}

// change has a copy read or replaced by f, and remembers its state afterwards. If f fails, the state
// before stays the one that counts.
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
	if err != nil { // it was removed, by f or another program at this moment
		delete(c.files, name)
		return nil
	}
	c.files[name] = info
	return nil
}

// lost reports whether a copy is not in the state that change left it in.
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
