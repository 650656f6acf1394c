package store

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
)

// statementRows returns the numbers of rows that one statement may have, largest first. A statement
// of 64 rows takes half as long for each as 64 statements of one row. Larger ones bring no more.
func statementRows() []int { return []int{64, 8, 1} }

// rowWriter executes one INSERT for any number of rows, with as few statements as possible.
type rowWriter struct {
	tx         *sql.Tx
	head, tail string // of the INSERT: before and after the list of rows
	values     []any  // of the rows that add has collected
	columns    int    // values of one row
	prepared   map[int]*sql.Stmt
}

// newRowWriter returns a rowWriter of tx. The values of one row follow head, and tail follows the
// rows.
func newRowWriter(tx *sql.Tx, head string, columns int, tail string) *rowWriter {
	return &rowWriter{tx: tx, head: head, tail: tail, columns: columns, prepared: map[int]*sql.Stmt{}}
}

// add adds a row. It executes a statement if there are enough rows for the largest one.
func (w *rowWriter) add(ctx context.Context, row ...any) error {
	w.values = append(w.values, row...)
	if most := statementRows()[0]; len(w.values) == most*w.columns {
		return w.exec(ctx, most)
	}
	return nil
}

// flush executes statements for the rows that are left.
func (w *rowWriter) flush(ctx context.Context) error {
	for _, n := range statementRows() {
		for len(w.values) >= n*w.columns {
			if err := w.exec(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// exec executes one statement for the first n rows. It cannot be interrupted: the driver starts a
// goroutine for each statement that can. It is short.
func (w *rowWriter) exec(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	statement := w.prepared[n]
	if statement == nil {
		row := "(?" + strings.Repeat(", ?", w.columns-1) + ")"
		var err error
		statement, err = w.tx.PrepareContext(ctx, w.head+" VALUES "+row+strings.Repeat(", "+row, n-1)+" "+w.tail)
		if err != nil {
			return err
		}
		w.prepared[n] = statement // the end of the transaction closes it
	}
	_, err := statement.ExecContext(ctx, w.values[:n*w.columns]...)
	w.values = append(w.values[:0], w.values[n*w.columns:]...)
	return err
}

// bySource returns hits in the order of their sources. Rows that are written in this order change
// each page of the database once.
func bySource(hits []Hit) []Hit {
	if slices.IsSortedFunc(hits, func(a, b Hit) int { return a.Source.Compare(b.Source) }) {
		return hits
	}
	hits = slices.Clone(hits)
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(b.Packets, a.Packets))
	})
	return hits
}
