package store

import (
	"context"
	"database/sql"
	"fmt"
)

// Counters are packets and bytes dropped since the database was made, and what the kernel's own counters showed then.
type Counters struct {
	Packets4, Bytes4, Packets6, Bytes6 uint64
	Raw                                [4]uint64 // the kernel's figures, in the same order
	Running                            bool      // whoever counts has not ended yet, or was killed
	Inexact                            bool      // something was dropped that is not counted
}

// fields are the names and places of the figures.
func (c *Counters) fields() map[string]*uint64 {
	return map[string]*uint64{
		"packets4": &c.Packets4, "bytes4": &c.Bytes4, "packets6": &c.Packets6, "bytes6": &c.Bytes6,
		"raw0": &c.Raw[0], "raw1": &c.Raw[1], "raw2": &c.Raw[2], "raw3": &c.Raw[3],
	}
}

func (c *Counters) flags() map[string]*bool {
	return map[string]*bool{"running": &c.Running, "inexact": &c.Inexact}
}

// Counters are what Add kept last.
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

// setCounters keeps c.
func setCounters(ctx context.Context, tx *sql.Tx, c Counters) error {
	put, err := tx.PrepareContext(ctx, "INSERT OR REPLACE INTO totals VALUES (?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = put.Close() }() // the transaction tells
	for name, n := range c.fields() {
		if _, err := put.ExecContext(ctx, name, int64(*n)); err != nil {
			return err
		}
	}
	for name, flag := range c.flags() {
		if _, err := put.ExecContext(ctx, name, *flag); err != nil {
			return err
		}
	}
	return nil
}
