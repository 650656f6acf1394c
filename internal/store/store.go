package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	fileName    = "sikkerguard.db"
	damagedName = "sikkerguard.damaged.db"
	// keepHits is how long hits are kept.
	keepHits = 30 * 24 * time.Hour
	// MaxQueue is how many rows the report queue may have.
	MaxQueue = 100_000
)

// Hit is packets of one source to one port.
type Hit struct {
	Source   netip.Addr
	Protocol uint8 // IANA number
	Port     uint16
	Service  string // what the port is called; empty: nothing
	Packets  uint64
}

// Row is one row of the report queue: what one source did to one service.
type Row struct {
	Source  netip.Addr
	Service string // empty: of no known service, or of several, merged
	Packets uint64
	Ports   []uint16 // at most MaxPorts of them, in the order in which they were seen
	First   time.Time
	Last    time.Time
}

// Totals are what has become of reports since the database was made.
type Totals struct {
	Sent     uint64 // rows that the API accepted
	Rejected uint64 // rows that it did not
	Merged   uint64 // rows that were merged with others of their source, because the queue was full
	Dropped  uint64 // rows that were dropped, because it was full all the same
}

// DamagedError is a database that could not be used and was set aside. A new one has taken its place.
type DamagedError struct {
	Aside string
	Err   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the database was damaged, is now %s, and a new one begun: %v", e.Aside, e.Err)
}

// Unwrap is what was wrong with it.
func (e *DamagedError) Unwrap() error { return e.Err }

// Store is the database. Its methods may be called from several goroutines.
type Store struct {
	db   *sql.DB
	most int // rows that the queue may have
}

// Open opens the database of the state directory, and makes it if need be. With a *DamagedError the Store is usable: it is
// new. With any other error there is none.
func Open(ctx context.Context, dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	path := filepath.Join(dir, fileName)
	s, err := open(ctx, path)
	if err == nil || !isDamage(err) {
		return s, err
	}
	damaged := &DamagedError{Aside: filepath.Join(dir, damagedName), Err: err}
	if rerr := os.Rename(path, damaged.Aside); rerr != nil {
		return nil, errors.Join(err, rerr) // what cannot be moved is no damage that a new one would mend
	}
	for _, suffix := range []string{"-wal", "-shm"} { // they belong to the one set aside, and would spoil the new one
		if rerr := os.Rename(path+suffix, damaged.Aside+suffix); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			return nil, errors.Join(err, rerr)
		}
	}
	s, err = open(ctx, path)
	if err != nil {
		return nil, err
	}
	return s, damaged
}

// errCheck is what quick_check found.
var errCheck = errors.New("it is not consistent")

// isDamage tells a file that holds no usable database from a disk that is full, a missing permission and the like, which a
// new database would not mend.
func isDamage(err error) bool {
	serr, ok := errors.AsType[*sqlite.Error](err)
	const primary = 0xff // the rest of the code is detail
	return errors.Is(err, errCheck) || ok && (serr.Code()&primary == sqlite3.SQLITE_CORRUPT || serr.Code()&primary == sqlite3.SQLITE_NOTADB)
}

// open opens one file, checks it and brings its schema up to date.
func open(ctx context.Context, path string) (*Store, error) {
	// WAL survives a kill at any point; NORMAL may lose the last transactions when the machine loses power, never more.
	const pragmas = "?_pragma=journal_mode(wal)&_pragma=synchronous(normal)&_pragma=busy_timeout(5000)&_txlock=immediate"
	db, err := sql.Open("sqlite", "file:"+path+pragmas)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.SetMaxOpenConns(1) // one writer, and nobody who reads at length
	s := &Store{db: db, most: MaxQueue}
	var check string
	err = db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&check)
	if err == nil && check != "ok" {
		err = fmt.Errorf("%w: %s", errCheck, check)
	}
	if err == nil {
		err = s.migrate(ctx)
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// migrations brings the schema from each version to the next. A migration that was released is never changed.
func migrations() []string {
	return []string{
		`CREATE TABLE hits (
			hour INTEGER NOT NULL, source BLOB NOT NULL, protocol INTEGER NOT NULL, port INTEGER NOT NULL, packets INTEGER NOT NULL,
			PRIMARY KEY (hour, source, protocol, port)
		) WITHOUT ROWID;
		CREATE TABLE queue (
			flight INTEGER NOT NULL, source BLOB NOT NULL, service TEXT NOT NULL,
			packets INTEGER NOT NULL, ports TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
			PRIMARY KEY (flight, source, service)
		) WITHOUT ROWID;
		CREATE TABLE totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;`,
	}
}

// migrate runs what is missing. A schema from the future is an error.
func (s *Store) migrate(ctx context.Context) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		all := migrations()
		if version > len(all) {
			return fmt.Errorf("schema version %d is newer than this program's %d", version, len(all))
		}
		for ; version < len(all); version++ {
			if _, err := tx.ExecContext(ctx, all[version]); err != nil {
				return fmt.Errorf("migrate to version %d: %w", version+1, err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

// transact runs f in a transaction.
func (s *Store) transact(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Prune deletes hits that are older than 30 days.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	_, err := s.db.ExecContext(ctx, "DELETE FROM hits WHERE hour < ?", hour(now.Add(-keepHits)))
	if err != nil {
		return fmt.Errorf("prune hits: %w", err)
	}
	return nil
}

// hour is the hour that a time is in, counted from 1970 UTC.
func hour(t time.Time) int64 { return t.Unix() / 3600 }

// Totals are what has become of reports.
func (s *Store) Totals(ctx context.Context) (Totals, error) {
	var t Totals
	into := map[string]*uint64{"sent": &t.Sent, "rejected": &t.Rejected, "merged": &t.Merged, "dropped": &t.Dropped}
	if err := s.totals(ctx, into); err != nil {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	return t, nil
}

// totals reads the named ones.
func (s *Store) totals(ctx context.Context, into map[string]*uint64) error {
	rows, err := s.db.QueryContext(ctx, "SELECT name, n FROM totals")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // Err tells
	for rows.Next() {
		var (
			name string
			n    int64
		)
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		if p := into[name]; p != nil {
			*p = uint64(n)
		}
	}
	return rows.Err()
}

// count adds to a total.
func count(ctx context.Context, tx *sql.Tx, name string, n int) error {
	if n == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO totals VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", name, n)
	return err
}
