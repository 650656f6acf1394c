package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const (
	// keepHits is how long hits are kept.
	keepHits = 30 * 24 * time.Hour
	// maxHourly is how many rows of hits an hour may have, and maxHits all hours together, some 200 MB. A listed network
	// that knocks on every port could otherwise fill the disk.
	maxHourly, maxHits = 100_000, 3_000_000
)

// Record is what was seen in a while.
type Record struct {
	From, To time.Time
	Hits     []Hit
	Report   bool      // the hits are to be reported, but for the silent ones
	Counters *Counters // nil leaves them as they are
}

// Add records hits and counters, and puts the hits into the report queue if they are to be reported, in one transaction: all
// or nothing.
func (s *Store) Add(ctx context.Context, r Record) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		if r.Counters != nil {
			if err := setCounters(ctx, tx, *r.Counters); err != nil {
				return err
			}
		}
		if len(r.Hits) == 0 {
			return nil
		}
		if err := s.keep(ctx, tx, hour(r.To), r.Hits); err != nil || !r.Report {
			return err
		}
		if err := enqueue(ctx, tx, fold(r.Hits, r.From, r.To)); err != nil {
			return err
		}
		return bound(ctx, tx, s.most)
	})
	if err != nil {
		return fmt.Errorf("record hits: %w", err)
	}
	return nil
}

// keep adds hits to those of an hour. When the hour is full, the packets of what is not in it yet are counted and no more.
func (s *Store) keep(ctx context.Context, tx *sql.Tx, hour int64, hits []Hit) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM hits WHERE hour = ?", hour).Scan(&n); err != nil {
		return err
	}
	update, err := tx.PrepareContext(ctx,
		"UPDATE hits SET packets = packets + ? WHERE hour = ? AND source = ? AND protocol = ? AND port = ?")
	if err != nil {
		return err
	}
	defer func() { _ = update.Close() }() // the transaction tells
	insert, err := tx.PrepareContext(ctx, "INSERT INTO hits (packets, hour, source, protocol, port) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = insert.Close() }() // the transaction tells
	unkept := 0
	uncancelled := context.WithoutCancel(ctx) // the driver begins a goroutine for each statement that can be cancelled
	for _, h := range hits {
		if err := ctx.Err(); err != nil {
			return err
		}
		values := []any{h.Packets, hour, h.Source.AsSlice(), h.Protocol, h.Port}
		res, err := update.ExecContext(uncancelled, values...)
		if err != nil {
			return err
		}
		switch known, err := res.RowsAffected(); {
		case err != nil:
			return err
		case known > 0:
		case n >= s.hourly:
			unkept += int(h.Packets)
		default:
			if _, err := insert.ExecContext(uncancelled, values...); err != nil {
				return err
			}
			n++
		}
	}
	return count(ctx, tx, "unkept", unkept)
}

// Prune deletes hits that are older than 30 days, and then the oldest while there are too many.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		oldest := hour(now.Add(-keepHits))
		for {
			if _, err := tx.ExecContext(ctx, "DELETE FROM hits WHERE hour < ?", oldest); err != nil {
				return err
			}
			var n int
			if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM hits").Scan(&n); err != nil || n <= maxHits {
				return err
			}
			if err := tx.QueryRowContext(ctx, "SELECT min(hour) + 1 FROM hits").Scan(&oldest); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("prune hits: %w", err)
	}
	return nil
}

// hour is the hour that a time is in, counted from 1970 UTC.
func hour(t time.Time) int64 { return t.Unix() / 3600 }
