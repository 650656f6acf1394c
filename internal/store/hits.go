package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	// keepHits is how long hits are kept.
	keepHits = 30 * 24 * time.Hour
	// maxHourly is how many rows of hits an hour may have, and maxHits all hours together, some 200 MB. A listed network
	// that knocks on every port could otherwise fill the disk.
	maxHourly, maxHits = 100_000, 3_000_000
	// confirmAfter and confirmWithin are how long after the previous call of Prune another one
	// confirms the clock, and pruneHours is how many hours with hits one call deletes for their age.
	confirmAfter, confirmWithin, pruneHours = 30 * time.Minute, 3 * time.Hour, 2
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
		if h.Held {
			continue // it is among those of an hour already
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

// Prune deletes hits that are older than 30 days, and then the oldest while there are too many. It
// is called every hour.
//
// The clock may be wrong, and what is deleted is gone. So the age counts only if the previous call
// saw a time shortly before now, half an hour at least, and then two hours with hits go at most: a
// clock that jumps ahead deletes nothing at once and little until it is put right, however often
// the agent is started meanwhile. Hits that lie more than 30 days ahead,
// which such a clock leaves, go in the same way.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		var before int64
		err := tx.QueryRowContext(ctx, "SELECT n FROM totals WHERE name = 'pruned'").Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		since := now.Sub(time.Unix(before, 0))
		if since >= 0 && since < confirmAfter {
			return thin(ctx, tx) // the agent was started again: that is no other reading
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO totals VALUES ('pruned', ?)", now.Unix()); err != nil {
			return err
		}
		if since >= 0 && since <= confirmWithin {
			if err := expire(ctx, tx, now); err != nil {
				return err
			}
		}
		return thin(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("prune hits: %w", err)
	}
	return nil
}

// expire deletes the oldest hours that are too old or too far ahead.
func expire(ctx context.Context, tx *sql.Tx, now time.Time) error {
	for _, query := range []string{
		"DELETE FROM hits WHERE hour IN (SELECT DISTINCT hour FROM hits WHERE hour < ?1 ORDER BY hour LIMIT ?3)",
		"DELETE FROM hits WHERE hour IN (SELECT DISTINCT hour FROM hits WHERE hour > ?2 ORDER BY hour LIMIT ?3)",
	} {
		if _, err := tx.ExecContext(ctx, query, hour(now.Add(-keepHits)), hour(now.Add(keepHits)), pruneHours); err != nil {
			return err
		}
	}
	return nil
}

// thin deletes the oldest hours while there are too many hits.
func thin(ctx context.Context, tx *sql.Tx) error {
	for {
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM hits").Scan(&n); err != nil || n <= maxHits {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM hits WHERE hour = (SELECT min(hour) FROM hits)"); err != nil {
			return err
		}
	}
}

// hour is the hour that a time is in, counted from 1970 UTC.
func hour(t time.Time) int64 { return t.Unix() / 3600 }
