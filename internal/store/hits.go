package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// keepHits is the age at which hits are deleted.
	keepHits = 30 * 24 * time.Hour
	// maxHourly is the limit of hit rows per hour. maxHits is the limit of hit rows in total, some
	// 200 MB. Without them, a listed network that probes every port could fill the disk.
	maxHourly, maxHits = 100_000, 3_000_000
	// hourSlack is the part of maxHourly by which a full hour is shortened further, so that it is not
	// merged for each record.
	hourSlack = 20
	// If Prune is called between confirmAfter and confirmWithin after its previous call, the two
	// readings of the clock confirm each other. pruneHours is the number of hours with hits that
	// one call deletes because of their age.
	confirmAfter, confirmWithin, pruneHours = 30 * time.Minute, 3 * time.Hour, 2
)

// Record is the hits and counters of one period.
type Record struct {
	From, To time.Time
	Hits     []Hit
	Report   bool      // put the hits into the report queue, except the silent ones
	Counters *Counters // nil leaves the stored counters unchanged
}

// Add records the hits and counters of r and, if r.Report is set, puts the hits into the report
// queue. It does so in one transaction: all or nothing.
func (s *Store) Add(ctx context.Context, r Record) error {
	err := s.transactWith(ctx, func(tx *sql.Tx, db *database) error {
		if r.Counters != nil {
			if err := setCounters(ctx, tx, db, *r.Counters); err != nil {
				return err
			}
		}
		if len(r.Hits) == 0 {
			return nil
		}
		hits := bySource(r.Hits)
		if err := s.addHits(ctx, tx, hour(r.To), hits, db); err != nil || !r.Report {
			return err
		}
		rows := queueable(hits, r.From, r.To)
		if err := enqueue(ctx, tx, db, rows); err != nil {
			return err
		}
		return limitQueue(ctx, tx, db, len(rows), s.maxQueue)
	})
	if err != nil {
		return fmt.Errorf("record hits: %w", err)
	}
	return nil
}

// rowCounts are upper limits of numbers of rows, so that they are not counted for each record. The
// zero value knows nothing.
type rowCounts struct {
	hour   int64 // of the history
	hourly int   // rows of the hour, or more
	exact  bool  // hourly is the number of rows
	merged int   // rows that the last merge of ports left in the hour
	queued int   // rows of the queue, or more; 0 if unknown
}

// countHour counts the rows of an hour.
func (r *rowCounts) countHour(ctx context.Context, tx *sql.Tx, hour int64) error {
	if r.hour != hour {
		r.merged = 0
	}
	r.hour, r.exact = hour, true
	row := tx.QueryRowContext(context.WithoutCancel(ctx), "SELECT count(*) FROM hits WHERE hour = ?", hour)
	return row.Scan(&r.hourly)
}

// insertHits adds rows of the history to those that it has.
func insertHits() rowInsert {
	return rowInsert{
		head: "INSERT INTO hits (hour, source, protocol, port, packets)", columns: 5,
		tail: "ON CONFLICT DO UPDATE SET packets = packets + excluded.packets",
	}
}

// addHits adds hits to those of an hour. If the hour is full, the ports of the sources with the most
// ports are merged. If that makes no room, the packets of sources without a row are only counted, in
// the total "unkept".
func (s *Store) addHits(ctx context.Context, tx *sql.Tx, hour int64, rows []Hit, db *database) error {
	known := &db.rows
	rows = slices.DeleteFunc(slices.Clone(rows), func(h Hit) bool { return h.Held }) // their hour has them already
	if known.hour != hour || known.hourly+len(rows) > s.maxHourly && !known.exact {
		if err := known.countHour(ctx, tx, hour); err != nil {
			return err
		}
	}
	if known.hourly+len(rows) > s.maxHourly {
		if err := s.makeRoom(ctx, tx, hour, len(rows), known); err != nil {
			return err
		}
	}
	if known.hourly+len(rows) > s.maxHourly {
		return s.addToFull(ctx, tx, hour, rows, known)
	}
	known.hourly, known.exact = known.hourly+len(rows), false
	put := newRowWriter(tx, db, insertHits())
	for _, h := range rows {
		if err := put.add(ctx, hour, h.Source.AsSlice(), h.Protocol, h.Port, h.Packets); err != nil {
			return err
		}
	}
	return put.flush(ctx)
}

// makeRoom merges ports in an hour until added rows fit, and some more. Sources with many ports come
// first, so that a port scan neither hides new sources nor costs the ports of quiet ones. It does
// nothing if few rows were added since it was last called.
func (s *Store) makeRoom(ctx context.Context, tx *sql.Tx, hour int64, added int, known *rowCounts) error {
	slack := s.maxHourly / hourSlack
	if known.merged > 0 && known.hourly-known.merged < slack {
		return nil
	}
	var many, some, all int // rows that a merge of sources with more than 256, 16 ports and 1 port saves
	err := tx.QueryRowContext(ctx, "SELECT ifnull(sum(iif(n > 256, n - 1, 0)), 0), "+
		"ifnull(sum(iif(n > 16, n - 1, 0)), 0), ifnull(sum(n - 1), 0) "+
		"FROM (SELECT count(*) AS n FROM hits WHERE hour = ? GROUP BY source, protocol)", hour).
		Scan(&many, &some, &all)
	if err != nil {
		return err
	}
	most, excess := 1, known.hourly+added-(s.maxHourly-slack)
	switch {
	case many >= excess:
		most = 256
	case some >= excess:
		most = 16
	}
	if all > 0 {
		if err := mergePorts(ctx, tx, hour, most); err != nil {
			return err
		}
		if err := known.countHour(ctx, tx, hour); err != nil {
			return err
		}
	}
	known.merged = known.hourly
	return nil
}

// mergePorts merges the rows of each source and protocol that has more than most rows in an hour. The
// row that is left has port 0.
func mergePorts(ctx context.Context, tx *sql.Tx, hour int64, most int) error {
	const which = " FROM hits WHERE hour = ?1 AND port <> 0 AND (source, protocol) IN " +
		"(SELECT source, protocol FROM hits WHERE hour = ?1 GROUP BY source, protocol HAVING count(*) > ?2)"
	_, err := tx.ExecContext(ctx, "INSERT INTO hits (hour, source, protocol, port, packets) "+
		"SELECT hour, source, protocol, 0, sum(packets)"+which+" GROUP BY source, protocol "+
		"ON CONFLICT DO UPDATE SET packets = packets + excluded.packets", hour, most)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE"+which, hour, most)
	return err
}

// addToFull is addHits for an hour that may have no room for all rows. If there is none for another
// port of a source, its first row of the protocol gets the packets, and port 0.
func (s *Store) addToFull(ctx context.Context, tx *sql.Tx, hour int64, rows []Hit, known *rowCounts) error {
	uncancelled := context.WithoutCancel(ctx) // the driver starts a goroutine for each statement that can be cancelled
	const where = " WHERE hour = ?2 AND source = ?3 AND protocol = ?4 AND port = "
	update, err := tx.PrepareContext(uncancelled, "UPDATE hits SET packets = packets + ?1"+where+"?5")
	if err != nil {
		return err
	}
	merge, err := tx.PrepareContext(uncancelled, "UPDATE hits SET packets = packets + ?1, port = 0"+where+
		"(SELECT min(port) FROM hits WHERE hour = ?2 AND source = ?3 AND protocol = ?4)")
	if err != nil {
		return err
	}
	insert, err := tx.PrepareContext(uncancelled,
		"INSERT INTO hits (packets, hour, source, protocol, port) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	change := func(row *sql.Stmt, values ...any) (found bool, err error) {
		res, err := row.ExecContext(uncancelled, values...)
		if err != nil {
			return false, err
		}
		n, err := res.RowsAffected()
		return n > 0, err
	}
	unkept := 0
	for _, h := range rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		values := []any{h.Packets, hour, h.Source.AsSlice(), h.Protocol, h.Port}
		found, err := change(update, values...)
		full := known.hourly >= s.maxHourly
		if err == nil && !found && full {
			found, err = change(merge, values[:4]...)
		}
		switch {
		case err != nil:
			return err
		case found:
		case full:
			unkept += int(h.Packets)
		default:
			if _, err := insert.ExecContext(uncancelled, values...); err != nil {
				return err
			}
			known.hourly++
		}
	}
	return count(ctx, tx, "unkept", unkept)
}

// Prune deletes hits older than 30 days. If more than maxHits rows remain, it deletes the oldest
// hours until they fit. It is called every hour.
//
// The clock may be wrong, and a deletion cannot be undone. So the age counts only if the previous
// call read a time between half an hour and three hours before now, and one call deletes at most
// two hours with hits. If the clock jumps ahead, nothing is deleted at once, and little until the
// clock is corrected, however often the agent restarts meanwhile. Hits more than 30 days in the
// future, which such a clock leaves behind, are deleted in the same way.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		var before int64
		err := tx.QueryRowContext(ctx, "SELECT n FROM totals WHERE name = 'pruned'").Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		since := now.Sub(time.Unix(before, 0))
		if since >= 0 && since < confirmAfter {
			return deleteExcess(ctx, tx) // the agent was restarted: this is not a second reading of the clock
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO totals VALUES ('pruned', ?)", now.Unix()); err != nil {
			return err
		}
		if since >= 0 && since <= confirmWithin {
			if err := deleteExpired(ctx, tx, now); err != nil {
				return err
			}
		}
		return deleteExcess(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("prune hits: %w", err)
	}
	return nil
}

// deleteExpired deletes the oldest hours that are too old or too far in the future.
func deleteExpired(ctx context.Context, tx *sql.Tx, now time.Time) error {
	for _, query := range []string{
		"DELETE FROM hits WHERE hour IN (SELECT DISTINCT hour FROM hits WHERE hour < ?1 ORDER BY hour LIMIT ?3)",
		"DELETE FROM hits WHERE hour IN (SELECT DISTINCT hour FROM hits WHERE hour > ?2 ORDER BY hour LIMIT ?3)",
	} {
		_, err := tx.ExecContext(ctx, query, hour(now.Add(-keepHits)), hour(now.Add(keepHits)), pruneHours)
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteExcess deletes the oldest hours until at most maxHits rows remain.
func deleteExcess(ctx context.Context, tx *sql.Tx) error {
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

// hour returns the hours from 1970 UTC to t.
func hour(t time.Time) int64 { return t.Unix() / 3600 }
