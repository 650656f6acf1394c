package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	fileName    = "sikkerguard.db"
	damagedName = "sikkerguard.damaged.db"
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
	Silent   bool // proves nothing against the source, and is never reported
	Held     bool // recorded before as silent, and to be reported now

	First, Last time.Time // when its packets came; zero: when those of its record did
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
	Unkept   uint64 // packets that are not in the hits by hour, because their hour was full
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

// Options say where the database is.
type Options struct {
	Dir string // the state directory; made if need be
	// Guard makes the state directory if need be, and returns why its files must not be used now; nil: it is only made.
	Guard   func() error
	Damaged func(*DamagedError) // told when a database was set aside and a new one takes its place; nil: nobody
}

// Store is the database. Its methods may be called from several goroutines. Each opens the database when it is not open, so
// that a disk that was full or missing is used again once it can be; and each that finds it damaged sets it aside, so that
// the next begins a new one. One whose file was removed is begun anew, too.
type Store struct {
	o      Options
	most   int // rows that the queue may have
	hourly int // rows of hits that an hour may have

	mu   sync.Mutex
	db   *sql.DB     // nil while it is not open
	file os.FileInfo // of db
}

// New makes a Store. Nothing is opened yet.
func New(o Options) *Store {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.Dir, 0o700) }
	}
	return &Store{o: o, most: MaxQueue, hourly: maxHourly}
}

// Open opens the database of the state directory, and makes it if need be. An error says why it cannot be used now.
func (s *Store) Open(ctx context.Context) error {
	_, err := s.handle(ctx)
	return err
}

// handle is the open database.
func (s *Store) handle(ctx context.Context) (*sql.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.o.Guard(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if s.db != nil {
		if now, err := os.Stat(s.path()); err == nil && os.SameFile(now, s.file) {
			return s.db, nil
		}
		// What is written to a file that was removed is lost with the process.
		_ = s.db.Close() // what it says of that file is no news
		s.db = nil
	}
	db, err := open(ctx, s.path())
	if isDamage(err) {
		if err := s.setAside(err); err != nil {
			return nil, err
		}
		db, err = open(ctx, s.path())
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if s.file, err = os.Stat(s.path()); err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
	}
	s.db = db
	return db, nil
}

func (s *Store) path() string { return filepath.Join(s.o.Dir, fileName) }

// setAside moves a damaged database away.
func (s *Store) setAside(damage error) error {
	aside := filepath.Join(s.o.Dir, damagedName)
	for _, suffix := range []string{"", "-wal", "-shm"} { // they belong to the one set aside, and would spoil a new one
		if err := os.Rename(s.path()+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(damage, fmt.Errorf("set database aside: %w", err)) // a new one would not mend that
		}
	}
	if s.o.Damaged != nil {
		s.o.Damaged(&DamagedError{Aside: aside, Err: damage})
	}
	return nil
}

// Close closes the database. A method that is called later opens it again.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	return db.Close()
}

// failed looks at the error of a use of db: a damaged database is set aside.
func (s *Store) failed(db *sql.DB, err error) error {
	if !isDamage(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != db {
		return err // somebody else was first
	}
	s.db = nil
	_ = db.Close() // what it says of a damaged file is no news
	return errors.Join(err, s.setAside(err))
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
func open(ctx context.Context, path string) (*sql.DB, error) {
	// What was committed survives a kill at any point, and with FULL a loss of power too, for one fsync a commit.
	const pragmas = "?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(5000)&_pragma=journal_size_limit(16777216)&_txlock=immediate"
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+pragmas)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one writer, and nobody who reads at length
	var check string
	err = db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&check)
	if err == nil && check != "ok" {
		err = fmt.Errorf("%w: %s", errCheck, check)
	}
	if err == nil {
		err = transact(ctx, db, func(tx *sql.Tx) error { return migrate(ctx, tx) })
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

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
func migrate(ctx context.Context, tx *sql.Tx) error {
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	all := migrations()
	if version > len(all) {
		return fmt.Errorf("%s has schema %d and this version knows %d: run the newer SikkerGuard, or move the file away",
			fileName, version, len(all))
	}
	for ; version < len(all); version++ {
		if _, err := tx.ExecContext(ctx, all[version]); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}

// transact runs f in a transaction.
func (s *Store) transact(ctx context.Context, f func(*sql.Tx) error) error {
	db, err := s.handle(ctx)
	if err != nil {
		return err
	}
	return s.failed(db, transact(ctx, db, f))
}

func transact(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Totals are what has become of reports.
func (s *Store) Totals(ctx context.Context) (Totals, error) {
	var t Totals
	into := map[string]*uint64{"sent": &t.Sent, "rejected": &t.Rejected, "merged": &t.Merged, "dropped": &t.Dropped, "unkept": &t.Unkept}
	if err := s.totals(ctx, into); err != nil {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	return t, nil
}

// totals reads the named ones.
func (s *Store) totals(ctx context.Context, into map[string]*uint64) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT name, n FROM totals")
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
	})
}

// count adds to a total.
func count(ctx context.Context, tx *sql.Tx, name string, n int) error {
	if n == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO totals VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", name, n)
	return err
}
