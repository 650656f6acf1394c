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

// rowInsert is an INSERT of rows: its text before and after the list of rows, and the number of
// values of one row.
type rowInsert struct {
	head, tail string
	columns    int
}

// text returns the statement for n rows.
func (i rowInsert) text(n int) string {
	row := "(?" + strings.Repeat(", ?", i.columns-1) + ")"
	return i.head + " VALUES " + row + strings.Repeat(", "+row, n-1) + " " + i.tail
}

// rowInserts returns the INSERTs of a rowWriter.
func rowInserts() []rowInsert { return []rowInsert{insertHits(), insertQueue(), insertTotals()} }

// prepareRows prepares the INSERTs of rows, for all transactions of db. Preparing them takes a sixth
// of the time of a transaction of 500 hits.
func prepareRows(ctx context.Context, db *sql.DB) (map[string]*sql.Stmt, error) {
	prepared := map[string]*sql.Stmt{}
	for _, insert := range rowInserts() {
		for _, n := range statementRows() {
			text := insert.text(n)
			statement, err := db.PrepareContext(context.WithoutCancel(ctx), text)
			if err != nil {
				return nil, err
			}
			prepared[text] = statement // the end of db closes it
		}
	}
	return prepared, nil
}

// rowWriter executes one INSERT for any number of rows, with as few statements as possible.
type rowWriter struct {
	tx       *sql.Tx
	insert   rowInsert
	prepared map[string]*sql.Stmt
	values   []any // of the rows that add has collected
	begun    map[int]*sql.Stmt
}

// newRowWriter returns a rowWriter of tx, a transaction of db.
func newRowWriter(tx *sql.Tx, db *database, insert rowInsert) *rowWriter {
	return &rowWriter{tx: tx, insert: insert, prepared: db.prepared, begun: map[int]*sql.Stmt{}}
}

// add adds a row. It executes a statement if there are enough rows for the largest one.
func (w *rowWriter) add(ctx context.Context, row ...any) error {
	w.values = append(w.values, row...)
	if most := statementRows()[0]; len(w.values) == most*w.insert.columns {
		return w.exec(ctx, most)
	}
	return nil
}

// flush executes statements for the rows that are left.
func (w *rowWriter) flush(ctx context.Context) error {
	for _, n := range statementRows() {
		for len(w.values) >= n*w.insert.columns {
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
	statement := w.begun[n]
	if statement == nil {
		statement = w.tx.StmtContext(ctx, w.prepared[w.insert.text(n)]) // the end of the transaction closes it
		w.begun[n] = statement
	}
	_, err := statement.ExecContext(ctx, w.values[:n*w.insert.columns]...)
	w.values = append(w.values[:0], w.values[n*w.insert.columns:]...)
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
