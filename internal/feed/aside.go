package feed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// asideName is the name of the refused list in the state directory.
const asideName = "blacklist.refused.txt"

// Refused is a list that was refused and set aside, so that an operator can accept it.
type Refused struct {
	Copy

	Guard  string // guard that refused it
	Reason string // reason of the refusal
	Shrunk int    // entries of the last list that was refused because it had shrunk; 0 for none
	Grown  int    // entries of the last list that was refused because it had grown; 0 for none
}

// KeepAside saves a refused list in the state directory and replaces the previous one. It uses list
// and pulled in place of r.Copy, which it does not read.
func (f *Feed) KeepAside(list blocklist.Blocklist, pulled time.Time, r Refused) error {
	err := f.write(asideName, list, pulled, []header{
		{"guard", strconv.Quote(r.Guard)},
		{"reason", strconv.Quote(r.Reason)},
		{"shrunk", strconv.Itoa(r.Shrunk)},
		{"grown", strconv.Itoa(r.Grown)},
	})
	if err != nil {
		return fmt.Errorf("keep refused list: %w", err)
	}
	return nil
}

// Aside reads the refused list. The error is ErrNoCopy if there is none of the same request, a
// *DamagedError, or an error of reading.
func (f *Feed) Aside() (Refused, error) {
	c, extra, err := f.read(asideName)
	if err != nil {
		return Refused{}, err
	}
	if c.Request != f.Request() {
		return Refused{}, ErrNoCopy
	}
	r := Refused{Copy: c}
	var errs [4]error
	r.Guard, errs[0] = strconv.Unquote(extra["guard"])
	r.Reason, errs[1] = strconv.Unquote(extra["reason"])
	r.Shrunk, errs[2] = strconv.Atoi(extra["shrunk"])
	r.Grown, errs[3] = strconv.Atoi(extra["grown"])
	if err := errors.Join(errs[:]...); err != nil {
		return Refused{}, f.setAside(asideName, damagedName, fmt.Errorf("its header is wrong: %w", err))
	}
	return r, nil
}

// DropAside removes the refused list, if there is one.
func (f *Feed) DropAside() error {
	if err := f.o.Guard(); err != nil {
		return fmt.Errorf("remove refused list: %w", err)
	}
	return f.copies.change(f.o.StateDir, asideName, func() error {
		err := os.Remove(filepath.Join(f.o.StateDir, asideName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove refused list: %w", err)
		}
		return nil
	})
}
