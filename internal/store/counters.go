package store

import (
	"context"
	"database/sql"
	"fmt"
)

// Counters are the packets and bytes dropped since the database was made, and the kernel counters
// they were computed from.
type Counters struct {
	Packets4, Bytes4, Packets6, Bytes6 uint64
	Raw                                [4]uint64 // kernel counters, in the same order
	Running                            bool      // the counting process has not ended yet, or was killed
	Inexact                            bool      // some drops were not counted
}

// fields returns the names of the figures in the table totals and pointers to them.
func (c *Counters) fields() map[string]*uint64 {
	return map[string]*uint64{
		"packets4": &c.Packets4, "bytes4": &c.Bytes4, "packets6": &c.Packets6, "bytes6": &c.Bytes6,
		"raw0": &c.Raw[0], "raw1": &c.Raw[1], "raw2": &c.Raw[2], "raw3": &c.Raw[3],
	}
}

func (c *Counters) flags() map[string]*bool {
	return map[string]*bool{"running": &c.Running, "inexact": &c.Inexact}
}

// Counters returns the counters that Add stored last, or zero if there are none.
func (s *Store) Counters(ctx context.Context) (Counters, error) {
	var (
		c     Counters
		flags = map[string]*uint64{}
	)
	into := c.fields()
	for name := range c.flags() {
		flags[name] = new(uint64)
		into[name] = flags[name]
	}
	if err := s.totals(ctx, into); err != nil {
		return Counters{}, fmt.Errorf("read counters: %w", err)
	}
	for name, flag := range c.flags() {
		*flag = *flags[name] != 0
	}
	return c, nil
}

// insertTotals replaces totals.
func insertTotals() rowInsert {
	return rowInsert{head: "INSERT OR REPLACE INTO totals (name, n)", columns: 2}
}

// setCounters stores c.
func setCounters(ctx context.Context, tx *sql.Tx, db *database, c Counters) error {
	put := newRowWriter(tx, db, insertTotals())
	for name, n := range c.fields() {
		if err := put.add(ctx, name, int64(*n)); err != nil {
			return err
		}
	}
	for name, flag := range c.flags() {
		if err := put.add(ctx, name, *flag); err != nil {
			return err
		}
	}
	return put.flush(ctx)
}
