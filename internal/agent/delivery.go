package agent

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/deliver"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/observe"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// recordAfter is the longest time that the recorder waits for the rules of the start.
const recordAfter = 10 * time.Second

// delivery has the parts that take dropped packets to the log, the database and the API. A nil
// delivery, as in a dry run, has none of them.
type delivery struct {
	sensor   *sensor.Sensor
	listener *part // of sensor
	store    *store.Store
	observer *observe.Observer
	recorder *deliver.Recorder
	courier  *deliver.Courier // nil if reports are off
}

func (a *Agent) newDelivery(api advisedAPI) *delivery {
	d := &delivery{sensor: sensor.New(sensor.Options{Group: a.cfg.NFLOGGroup})}
	d.listener = &part{code: status.CondSensor, open: d.sensor.Open, run: d.sensor.Run, close: d.sensor.Close}
	d.store = store.New(store.Options{
		Dir: a.cfg.StateDir, Guard: a.useStateDir,
		Damaged: func(err *store.DamagedError) {
			a.log.Warn("The database of blocked connections", zap.Error(err))
		},
	})
	d.recorder = deliver.NewRecorder(deliver.RecorderOptions{
		Database: d.store, Ledger: a.enforcer.Ledger(), Allowlist: a.enforcer,
		Reports: a.cfg.ReportEnabled, PortName: a.cfg.Ports.Name,
		Outbound: deliver.Outbound{
			Sockets: host.UDPSockets, LocalPorts: host.LocalPorts, Tracks: host.Tracks, Peers: host.UDPPeers,
		},
		Opened: sync.OnceFunc(func() { close(a.restC) }), Board: a.board, Log: a.log,
	})
	d.observer = observe.New(observe.Options{
		Sensor: d.sensor, Counter: a.enforcer.Ledger(), Keys: a.enforcer,
		Sinks:    []observe.Sink{d.recorder, a.enforcer},
		PortName: a.cfg.Ports.Name, LogRate: a.cfg.LogRate, Fields: a.cfg.LogFormat == config.LogJSON,
		Unread: func(err error) { a.board.SetCondition(status.CondCounts, err) }, Log: a.log,
	})
	if a.cfg.ReportEnabled {
		d.courier = deliver.NewCourier(deliver.CourierOptions{
			Store: d.store, API: api, Allowlist: a.enforcer, Interval: a.cfg.ReportInterval, Clock: clock.System(),
			Board: a.board, Log: a.log, Kept: d.recorder.Queue, Unreached: a.enforcer.SurveyNow,
		})
	}
	return d
}

// record runs the recorder once readyC is closed, or after recordAfter. The database is opened and
// checked only then, because the saved lists need the processor and the disk first. Hits wait in
// memory.
func (d *delivery) record(readyC <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		timer := time.NewTimer(recordAfter)
		defer timer.Stop()
		select {
		case <-readyC:
		case <-timer.C:
		case <-ctx.Done():
		}
		return d.recorder.Run(ctx)
	}
}

// fill adds the figures of the parts. The events are read before the sums, and the sums before the
// recorder saves them.
func (d *delivery) fill(s *status.Status, ledger *counters.Ledger) {
	d.observer.Fill(s)
	if sum, exact, ok := ledger.Total(); ok {
		s.Dropped = &status.Dropped{
			Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6, Exact: exact,
		}
	}
	d.recorder.Fill(s)
	if d.courier != nil {
		d.courier.Fill(s)
	}
}

// finish logs the last window.
func (d *delivery) finish() {
	if d != nil {
		d.observer.Finish()
	}
}

// reportLast sends one more batch of reports, if reports are on.
func (d *delivery) reportLast() error {
	if d == nil || d.courier == nil {
		return nil
	}
	return d.courier.Last()
}

// closeSensor releases the NFLOG group.
func (d *delivery) closeSensor() error {
	if d == nil {
		return nil
	}
	return d.sensor.Close()
}

// closeStore closes the database.
func (d *delivery) closeStore() error {
	if d == nil {
		return nil
	}
	return d.store.Close()
}
