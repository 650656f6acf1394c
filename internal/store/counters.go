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
}

func (c *Counters) fields() map[string]*uint64 {
	return map[string]*uint64{
		"packets4": &c.Packets4, "bytes4": &c.Bytes4, "packets6": &c.Packets6, "bytes6": &c.Bytes6,
		"raw0": &c.Raw[0], "raw1": &c.Raw[1], "raw2": &c.Raw[2], "raw3": &c.Raw[3],
	}
}

// Counters are what SetCounters kept last.
func (s *Store) Counters(ctx context.Context) (Counters, error) {
	var c Counters
	if err := s.totals(ctx, c.fields()); err != nil {
		return Counters{}, fmt.Errorf("read counters: %w", err)
	}
	return c, nil
}

// SetCounters keeps c.
func (s *Store) SetCounters(ctx context.Context, c Counters) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		for name, n := range c.fields() {
			if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO totals VALUES (?, ?)", name, int64(*n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep counters: %w", err)
	}
	return nil
}
