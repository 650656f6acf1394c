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
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	fileName    = "sikkerguard.db"
	damagedName = "sikkerguard.damaged.db"
	// MaxQueue is the largest number of rows in the report queue.
	MaxQueue = 100_000
)

// Hit is the packets of one source to one port.
type Hit struct {
	Source   netip.Addr
	Protocol uint8 // IANA number
	Port     uint16
	Service  string // name of the service at the port; empty if it has none
	Packets  uint64
	Silent   bool // proves nothing against the source; never reported
	Held     bool // recorded before as silent; now to be reported

	First, Last time.Time // times of its first and last packet; if zero, those of its record
}

// Totals count the outcomes of reports since the database was made.
type Totals struct {
	Sent     uint64 // rows that the API accepted
	Rejected uint64 // rows that the API rejected
	Merged   uint64 // rows merged with others of their source because the queue was full
	Dropped  uint64 // rows dropped because the queue was full after merging
	Unkept   uint64 // packets missing from the hits by hour because their hour was full
}

// DamagedError reports that the database could not be used and was set aside. An empty one replaces
// it.
type DamagedError struct {
	Aside string
	Err   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("database was damaged; moved to %s and replaced by an empty one: %v", e.Aside, e.Err)
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// Options are the settings of a Store.
type Options struct {
	Dir string // state directory; made if it does not exist
	// Guard makes the state directory if it does not exist, and returns an error if its files must
	// not be used now. If nil, the Store only makes the directory.
	Guard   func() error
	Damaged func(*DamagedError) // called after a database was set aside; may be nil
}

// Store is the database. Its methods may be called concurrently. Each opens the database if it is
// not open, so a disk that was full or missing is used again as soon as possible. A method that
// finds the database damaged sets it aside, and the next call makes a new one. If another program
// removed the file, a new one is also made.
type Store struct {
	o         Options
	maxQueue  int // limit of rows in the queue
	maxHourly int // limit of hit rows per hour

	mu   sync.Mutex
	db   *database   // nil if not open
	file os.FileInfo // file of db
}

// database is an open database. It has one connection, so its transactions exclude each other.
type database struct {
	*sql.DB

	prepared map[string]*sql.Stmt // by text; see prepareRows

	rows   rowCounts   // for the transaction under way
	failed atomic.Bool // a transaction failed, so rows may count some that are not there
}

// New returns a Store. It opens nothing.
func New(o Options) *Store {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.Dir, 0o700) }
	}
	return &Store{o: o, maxQueue: MaxQueue, maxHourly: maxHourly}
}

// Open opens the database of the state directory and makes it if it does not exist. An error is the
// reason that the database cannot be used now.
func (s *Store) Open(ctx context.Context) error {
	_, err := s.handle(ctx)
	return err
}

// handle returns the open database.
func (s *Store) handle(ctx context.Context) (*database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.o.Guard(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if s.db != nil {
		if now, err := os.Stat(s.path()); err == nil && os.SameFile(now, s.file) {
			return s.db, nil
		}
		// Another program removed or replaced the file. Writes to the open one would be lost at
		// exit.
		_ = s.db.Close() // errors about the removed file do not matter
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
	prepared, err := prepareRows(ctx, db)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
	}
	s.db = &database{DB: db, prepared: prepared}
	return s.db, nil
}

func (s *Store) path() string { return filepath.Join(s.o.Dir, fileName) }

// setAside renames a damaged database.
func (s *Store) setAside(damage error) error {
	aside := filepath.Join(s.o.Dir, damagedName)
	// the other files belong to the damaged database and would spoil a new one
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(s.path()+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			// a new database would fail in the same way
			return errors.Join(damage, fmt.Errorf("set database aside: %w", err))
		}
	}
	if s.o.Damaged != nil {
		s.o.Damaged(&DamagedError{Aside: aside, Err: damage})
	}
	return nil
}

// Close closes the database. A later call of another method opens it again.
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

// checkDamage returns err, the error of a use of db. If it shows damage, checkDamage sets the
// database aside.
func (s *Store) checkDamage(db *database, err error) error {
	if !isDamage(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != db {
		return err // another goroutine has set it aside already
	}
	s.db = nil
	_ = db.Close() // errors about the damaged file do not matter
	return errors.Join(err, s.setAside(err))
}

// errCheck reports that quick_check found a fault.
var errCheck = errors.New("quick_check found an inconsistency")

// isDamage reports whether err shows that the file holds no usable database. A full disk, a missing
// permission and the like are not damage: a new database would have the same problem.
func isDamage(err error) bool {
	serr, ok := errors.AsType[*sqlite.Error](err)
	const primary = 0xff // the higher bits are the extended result code
	return errors.Is(err, errCheck) ||
		ok && (serr.Code()&primary == sqlite3.SQLITE_CORRUPT || serr.Code()&primary == sqlite3.SQLITE_NOTADB)
}

// open opens one file, checks it and brings its schema up to date.
func open(ctx context.Context, path string) (*sql.DB, error) {
	// A committed transaction survives a kill at any point. With FULL it also survives a loss of
	// power, at the price of one fsync per commit.
	const pragmas = "?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(5000)" +
		"&_pragma=journal_size_limit(16777216)&_txlock=immediate"
	// SQLite gives the -wal and -shm files the mode of this one.
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
	db.SetMaxOpenConns(1) // one writer, and no reader that takes long
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

// migrations returns the statements that bring the schema from each version to the next. A released
// migration is never changed.
func migrations() []string {
	return []string{
		`CREATE TABLE hits (
			hour INTEGER NOT NULL, source BLOB NOT NULL, protocol INTEGER NOT NULL, port INTEGER NOT NULL,
			packets INTEGER NOT NULL, PRIMARY KEY (hour, source, protocol, port)
		) WITHOUT ROWID;
		CREATE TABLE queue (
			flight INTEGER NOT NULL, source BLOB NOT NULL, service TEXT NOT NULL,
			packets INTEGER NOT NULL, ports TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
			PRIMARY KEY (flight, source, service)
		) WITHOUT ROWID;
		CREATE TABLE totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;`,
	}
}

// migrate runs the missing migrations. A schema newer than this program knows is an error.
func migrate(ctx context.Context, tx *sql.Tx) error {
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	all := migrations()
	if version > len(all) {
		return fmt.Errorf(
			"%s has schema %d, newer than schema %d of this version: run the newer SikkerGuard or move the file away",
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
	return s.transactWith(ctx, func(tx *sql.Tx, _ *database) error { return f(tx) })
}

// transactWith runs f in a transaction of the open database.
func (s *Store) transactWith(ctx context.Context, f func(*sql.Tx, *database) error) error {
	db, err := s.handle(ctx)
	if err != nil {
		return err
	}
	err = transact(ctx, db.DB, func(tx *sql.Tx) error {
		if db.failed.Swap(false) {
			db.rows = rowCounts{}
		}
		return f(tx, db)
	})
	if err != nil {
		db.failed.Store(true)
	}
	return s.checkDamage(db, err)
}

// transact runs f in a transaction, unless ctx ends before the commit. The statements that begin and
// commit it cannot be interrupted: the driver starts a goroutine for each one that can.
func transact(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	if err = f(tx); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Totals returns the outcomes of reports so far.
func (s *Store) Totals(ctx context.Context) (Totals, error) {
	var t Totals
	into := map[string]*uint64{
		"sent": &t.Sent, "rejected": &t.Rejected, "merged": &t.Merged, "dropped": &t.Dropped, "unkept": &t.Unkept,
	}
	if err := s.totals(ctx, into); err != nil {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	return t, nil
}

// totals reads the totals named by the keys of into.
func (s *Store) totals(ctx context.Context, into map[string]*uint64) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(context.WithoutCancel(ctx), "SELECT name, n FROM totals")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // Err returns the error
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

// count adds n to a total.
func count(ctx context.Context, tx *sql.Tx, name string, n int) error {
	if n == 0 {
		return nil
	}
	_, err := tx.ExecContext(context.WithoutCancel(ctx),
		"INSERT INTO totals VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", name, n)
	return err
}
