package deliver

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// logged returns a logger and its lines.
func logged() (*zap.Logger, *zapobserver.ObservedLogs) {
	core, logs := zapobserver.New(zapcore.DebugLevel)
	return zap.New(core, zap.Development()), logs
}

// allowlist is an Allowlist of prefixes.
type allowlist struct{ blocklist.Blocklist }

func (a *allowlist) Allows(source netip.Addr) bool { return a.Contains(source) }

// noSums is a Ledger that never has sums to save.
type noSums struct{}

func (noSums) Load(context.Context) error   { return nil }
func (noSums) Changed() bool                { return false }
func (noSums) Unsaved(bool) *store.Counters { return nil }
func (noSums) Saved(*store.Counters)        {}

// portName names some ports, as SIKKER_PORT_MAP does.
func portName(port uint16) (string, bool) {
	name, ok := map[uint16]string{
		22: "ssh", 53: "dns", 161: "snmp", 5060: "sip", 11211: "memcached", 51820: "wireguard",
	}[port]
	return name, ok
}

// newRecorder returns a Recorder with reports on, of the database db, and its log.
func newRecorder(t *testing.T, db Database) (*Recorder, *allowlist, *zapobserver.ObservedLogs) {
	t.Helper()
	log, logs := logged()
	allow := &allowlist{}
	board := status.New(status.Options{PullInterval: time.Hour, Clock: clock.System(), Log: log})
	return NewRecorder(RecorderOptions{
		Database: db, Ledger: noSums{}, Allowlist: allow, Reports: true, PortName: portName, Board: board, Log: log,
	}), allow, logs
}

// blocks returns a list of the prefixes.
func blocks(prefixes ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, p := range prefixes {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return blocklist.New(ps)
}
