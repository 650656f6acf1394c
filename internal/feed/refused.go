package feed

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// Refused is a list that was refused and set aside, so that an operator can accept it.
type Refused struct {
	Copy

	Guard  string // guard that refused it
	Reason string // reason of the refusal
	Shrunk int    // entries of the last list that was refused because it had shrunk; 0 for none
	Grown  int    // entries of the last list that was refused because it had grown; 0 for none
}

// SaveRefused saves a refused list and replaces the previous one. It uses list and fetched in place
// of r.Copy, which it does not read.
func (s *Saved) SaveRefused(list blocklist.Blocklist, fetched time.Time, r Refused) error {
	err := s.write(s.refusedName(), list, fetched, []header{
		{"guard", strconv.Quote(r.Guard)},
		{"reason", strconv.Quote(r.Reason)},
		{"shrunk", strconv.Itoa(r.Shrunk)},
		{"grown", strconv.Itoa(r.Grown)},
	})
	if err != nil {
		return fmt.Errorf("save refused list: %w", err)
	}
	return nil
}

// Refused reads the refused list, and calls use unless that is nil. The error is ErrNoCopy if there
// is none of the same request, a *DamagedError, or an error of reading.
func (s *Saved) Refused(use Use) (Refused, error) {
	c, extra, err := s.read(s.refusedName(), use)
	if err != nil {
		return Refused{}, err
	}
	if c.Request != s.feed.Identity().Request {
		return Refused{}, ErrNoCopy
	}
	r := Refused{Copy: c}
	var errs [4]error
	r.Guard, errs[0] = strconv.Unquote(extra["guard"])
	r.Reason, errs[1] = strconv.Unquote(extra["reason"])
	r.Shrunk, errs[2] = strconv.Atoi(extra["shrunk"])
	r.Grown, errs[3] = strconv.Atoi(extra["grown"])
	if err := errors.Join(errs[:]...); err != nil {
		return Refused{}, s.setAside(s.refusedName(), fmt.Errorf("its header is wrong: %w", err))
	}
	return r, nil
}

// DropRefused removes the refused list, if there is one.
func (s *Saved) DropRefused() error {
	if err := s.dir.remove(s.refusedName()); err != nil {
		return fmt.Errorf("remove refused list: %w", err)
	}
	return nil
}
