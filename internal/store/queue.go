package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
)

// queueSlack is the part of its limit by which a queue that is too long is shortened further.
const queueSlack = 20

// The values of queue.flight.
const (
	waiting  = 0
	inFlight = 1
)

// queueable returns the report rows of the hits that are not silent, one each.
func queueable(hits []Hit, from, to time.Time) []reportrow.Row {
	rows := make([]reportrow.Row, 0, len(hits))
	ports := make([]uint16, 0, len(hits))
	for _, h := range hits {
		if h.Silent {
			continue
		}
		row := reportrow.Row{Source: h.Source, Service: h.Service, Packets: h.Packets, First: from, Last: to}
		if !h.First.IsZero() {
			row.First, row.Last = h.First, h.Last
		}
		if h.Port != 0 {
			ports = append(ports, h.Port)
			row.Ports = ports[len(ports)-1:]
		}
		rows = append(rows, row)
	}
	return rows
}

// insertQueue adds rows to those that wait. If a row of the same source and service waits, the two are
// merged: packets are added, the time is widened, and new ports are appended up to MaxPorts. A row has
// one port, or "".
func insertQueue() rowInsert {
	return rowInsert{
		head: "INSERT INTO queue (flight, source, service, packets, ports, first, last)", columns: 7,
		tail: fmt.Sprintf(`ON CONFLICT DO UPDATE SET packets = packets + excluded.packets,
			first = min(first, excluded.first), last = max(last, excluded.last),
			ports = CASE
				WHEN excluded.ports = '' OR instr(',' || ports || ',', ',' || excluded.ports || ',') THEN ports
				WHEN ports = '' THEN excluded.ports
				WHEN length(ports) - length(replace(ports, ',', '')) + 1 >= %d THEN ports
				ELSE ports || ',' || excluded.ports END`, reportrow.MaxPorts),
	}
}

// enqueue adds rows to those that wait.
func enqueue(ctx context.Context, tx *sql.Tx, db *database, rows []reportrow.Row) error {
	put := newRowWriter(tx, db, insertQueue())
	for _, r := range rows {
		packets, ports := r.Packets, r.Ports
		for first := true; first || len(ports) > 0; first = false { // the statement takes one port a row
			port := ""
			if len(ports) > 0 {
				port, ports = strconv.Itoa(int(ports[0])), ports[1:]
			}
			source, from, to := r.Source.AsSlice(), r.First.UnixMilli(), r.Last.UnixMilli()
			if err := put.add(ctx, waiting, source, r.Service, packets, port, from, to); err != nil {
				return err
			}
			packets = 0
		}
	}
	return put.flush(ctx)
}

// limitQueue keeps the queue within most rows after added rows were put into it. A queue that is
// too long loses queueSlack of its rows more, so that a full one is not sorted for each record. First
// limitQueue merges the oldest rows by their source. If that is not enough, it drops those with the
// fewest packets.
func limitQueue(ctx context.Context, tx *sql.Tx, db *database, added, most int) error {
	known := &db.rows
	if known.queued > 0 && known.queued+added <= most {
		known.queued += added
		return nil
	}
	n, err := length(ctx, tx)
	if known.queued = n; err != nil || n <= most {
		return err
	}
	most -= most / queueSlack
	known.queued = most
	old, err := selectRows(ctx, tx, `SELECT source, service, packets, ports, first, last FROM queue
		WHERE flight = 0 AND source IN
			(SELECT source FROM queue WHERE flight = 0 GROUP BY source HAVING count(*) > 1)
		ORDER BY last LIMIT ?`,
		2*(n-most)) // each merge of two rows saves one
	if err != nil {
		return err
	}
	for i, r := range old {
		_, err := tx.ExecContext(ctx, "DELETE FROM queue WHERE flight = 0 AND source = ? AND service = ?",
			r.Source.AsSlice(), r.Service)
		if err != nil {
			return err
		}
		old[i].Service = ""
	}
	if err := enqueue(ctx, tx, db, old); err != nil {
		return err
	}
	left, err := length(ctx, tx)
	if err != nil {
		return err
	}
	if err := count(ctx, tx, "merged", n-left); err != nil || left <= most {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM queue WHERE flight = 0 AND (source, service) IN
		(SELECT source, service FROM queue WHERE flight = 0 ORDER BY packets, last LIMIT ?)`, left-most)
	if err != nil {
		return err
	}
	return count(ctx, tx, "dropped", left-most)
}

func length(ctx context.Context, tx *sql.Tx) (n int, err error) {
	err = tx.QueryRowContext(context.WithoutCancel(ctx), "SELECT count(*) FROM queue").Scan(&n)
	return n, err
}

// Queued returns the number of rows in the queue, including the batch in flight.
func (s *Store) Queued(ctx context.Context) (n int, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		n, err = length(ctx, tx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count queue: %w", err)
	}
	return n, nil
}

// Batch returns the batch in flight, which may come from an earlier process that was stopped before
// it had the answer. If there is none, the waiting rows with the most packets, up to most, become
// the batch. Their times do not matter, so a wrong clock keeps no row in the queue.
func (s *Store) Batch(ctx context.Context, most int) (batch []reportrow.Row, err error) {
	const flying = "SELECT source, service, packets, ports, first, last FROM queue " +
		"WHERE flight = 1 ORDER BY packets DESC, source, service"
	err = s.transact(ctx, func(tx *sql.Tx) error {
		if batch, err = selectRows(ctx, tx, flying); err != nil || len(batch) > 0 {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE queue SET flight = 1 WHERE flight = 0 AND (source, service) IN
			(SELECT source, service FROM queue WHERE flight = 0 ORDER BY packets DESC, source, service LIMIT ?)`, most)
		if err != nil {
			return err
		}
		batch, err = selectRows(ctx, tx, flying)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take batch: %w", err)
	}
	return batch, nil
}

// Done ends the batch in flight. It deletes the rows in the transaction that records how many the
// API accepted and rejected. The rows in again go back into the queue.
func (s *Store) Done(ctx context.Context, accepted, rejected int, again []reportrow.Row) error {
	err := s.transactWith(ctx, func(tx *sql.Tx, db *database) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM queue WHERE flight = 1")
		return errors.Join(err, enqueue(ctx, tx, db, again),
			count(ctx, tx, "sent", accepted), count(ctx, tx, "rejected", rejected))
	})
	if err != nil {
		return fmt.Errorf("record answer: %w", err)
	}
	return nil
}

// Return puts the batch in flight back into the queue: the API said that it took none of it.
func (s *Store) Return(ctx context.Context) error {
	err := s.transactWith(ctx, func(tx *sql.Tx, db *database) error {
		rows, err := selectRows(ctx, tx,
			"SELECT source, service, packets, ports, first, last FROM queue WHERE flight = 1")
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM queue WHERE flight = 1"); err != nil {
			return err
		}
		return enqueue(ctx, tx, db, rows)
	})
	if err != nil {
		return fmt.Errorf("return batch: %w", err)
	}
	return nil
}

// Withdraw deletes the rows of all sources for which drop returns true. It returns the number of
// deleted rows. If some are in flight, the API may have taken them.
func (s *Store) Withdraw(ctx context.Context, drop func(netip.Addr) bool) (rows int, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		sources, err := querySources(ctx, tx)
		if err != nil {
			return err
		}
		for _, source := range sources {
			if !drop(source) {
				continue
			}
			res, err := tx.ExecContext(ctx, "DELETE FROM queue WHERE source = ?", source.AsSlice())
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			rows += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("withdraw reports: %w", err)
	}
	return rows, nil
}

// querySources returns every source that has a row in the queue.
func querySources(ctx context.Context, tx *sql.Tx) (sources []netip.Addr, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT DISTINCT source FROM queue")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err returns the error
	for rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return nil, err
		}
		if addr, ok := netip.AddrFromSlice(raw); ok {
			sources = append(sources, addr)
		}
	}
	return sources, rows.Err()
}

// Forget empties the report queue.
func (s *Store) Forget(ctx context.Context) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM queue")
		return err
	})
	if err != nil {
		return fmt.Errorf("empty queue: %w", err)
	}
	return nil
}

func selectRows(ctx context.Context, tx *sql.Tx, query string, args ...any) (list []reportrow.Row, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err returns the error
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

func scanRow(from interface{ Scan(dest ...any) error }) (reportrow.Row, error) {
	var (
		r           reportrow.Row
		source      []byte
		ports       string
		first, last int64
	)
	if err := from.Scan(&source, &r.Service, &r.Packets, &ports, &first, &last); err != nil {
		return r, err
	}
	addr, ok := netip.AddrFromSlice(source)
	if !ok {
		return r, fmt.Errorf("queue has a row whose source is %d bytes long", len(source))
	}
	r.Source, r.Ports = addr, parsePorts(ports)
	r.First, r.Last = time.UnixMilli(first).UTC(), time.UnixMilli(last).UTC()
	return r, nil
}

func parsePorts(text string) []uint16 {
	var ports []uint16
	for part := range strings.SplitSeq(text, ",") {
		if p, err := strconv.ParseUint(part, 10, 16); err == nil {
			ports = append(ports, uint16(p))
		}
	}
	return ports
}
