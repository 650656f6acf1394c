package measure

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

//go:embed crowdsec.yaml
var crowdsecConfig string

//go:embed bouncer.yaml
var bouncerConfig string

// crowdsec measures how long cs-firewall-bouncer takes to enforce decisions that CrowdSec's local
// API has, and the memory of both, against an agent with a list of the same size and no saved list.
func (b *Bench) crowdsec(ctx context.Context) error {
	l := lists.New(lists.Addresses, false, b.Plan.Decisions, 1)
	c := result.Case{Family: 4, Shape: string(lists.Addresses), Entries: b.Plan.Decisions}
	if err := b.firstPull(ctx, c, l); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return b.bouncer(ctx, c, l)
}

// firstPull starts an agent without a saved list.
func (b *Bench) firstPull(ctx context.Context, c result.Case, l *lists.List) (err error) {
	s, err := b.newSite(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.api.Publish(l.Text()); err != nil {
		return err
	}
	start := time.Now()
	if s.agent, err = s.NewAgent(b.Agent, s.api, s.stateDir, nil); err != nil {
		return err
	}
	end, err := s.agent.Await(ctx, lab.Blocking, start)
	if err != nil {
		return err
	}
	return b.addLoad(c, result.Agent, s.agent.Program, end.Sub(start))
}

// addLoad adds the time of a load, the processor time, and the memory when the program has settled.
func (b *Bench) addLoad(c result.Case, who result.Contestant, p *lab.Program, took time.Duration) error {
	time.Sleep(b.Plan.Settle)
	m, err := lab.Resident(p.PID())
	if err != nil {
		return err
	}
	used, err := lab.CPUTime(p.PID())
	if err != nil {
		return err
	}
	c.Variant = FromStart
	for measure, v := range map[result.Measure]float64{
		result.Load: ms(took), result.Resident: mib(m.Now), result.Peak: mib(m.Peak), result.CPU: ms(used),
	} {
		c.Measure = measure
		b.add(c, who, v)
	}
	b.logf("   %s: %d entries in force after %.1f s, %.0f MiB resident, %.0f at the peak", who, c.Entries,
		took.Seconds(), mib(m.Now), mib(m.Peak))
	return nil
}

// FromStart is the variant of figures of a program since its start.
const FromStart = "since the start"

// bouncer starts CrowdSec with the decisions, and then the bouncer.
func (b *Bench) bouncer(ctx context.Context, c result.Case, l *lists.List) (err error) {
	var all closers
	defer func() { err = errors.Join(err, all.close()) }()
	h, err := lab.NewHost(false)
	if err != nil {
		return err
	}
	all = append(all, h)
	dir, err := b.crowdsecDir(l)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "crowdsec.yaml")
	cscli := func(args ...string) error {
		_, err := h.Run(ctx, "", b.unpacked("crowdsec", "cscli"), append([]string{"-c", config}, args...)...)
		return err
	}
	err = cscli("machines", "add", "bench", "-p", "bench", "-f", filepath.Join(dir, "etc/credentials.yaml"))
	if err == nil {
		err = cscli("bouncers", "add", "bench", "-k", "bench")
	}
	if err != nil {
		return err
	}
	launch := func(await, path string, args ...string) (*lab.Program, time.Duration, error) {
		start := time.Now()
		p, err := h.Launch(exec.CommandContext(context.WithoutCancel(ctx), path, args...), nil)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, closeFunc(p.Stop))
		end, err := p.Await(ctx, await, start)
		return p, end.Sub(start), err
	}
	server, _, err := launch("Local API listening", b.unpacked("crowdsec", "crowdsec"),
		"-c", config, "-no-cs", "-no-capi")
	if err != nil {
		return err
	}
	if err := cscli("decisions", "import", "-i", filepath.Join(dir, "decisions.csv")); err != nil {
		return err
	}
	const bouncer = "crowdsec-firewall-bouncer"
	added := fmt.Sprintf("%d decisions added", len(l.Entries))
	p, took, err := launch(added, b.unpacked(bouncer, bouncer), "-c", filepath.Join(dir, "bouncer.yaml"))
	if err != nil {
		return err
	}
	if err := b.addLoad(c, result.Bouncer, p, took); err != nil {
		return err
	}
	m, err := lab.Resident(server.PID())
	if err != nil {
		return err
	}
	c.Measure, c.Variant = result.Resident, FromStart
	b.add(c, result.BouncerAPI, mib(m.Now))
	c.Measure = result.Peak
	b.add(c, result.BouncerAPI, mib(m.Peak))
	return nil
}

// unpacked returns the path of a program in a package that e2e/install-deps unpacked, or its name
// if the package is installed on this machine.
func (b *Bench) unpacked(pkg, program string) string {
	path := filepath.Join(b.Root, "bin", pkg, "usr/bin", program)
	if _, err := os.Stat(path); err != nil {
		return program
	}
	return path
}

// crowdsecDir makes the files of CrowdSec and of the bouncer.
func (b *Bench) crowdsecDir(l *lists.List) (string, error) {
	dir, err := b.dir("crowdsec")
	if err != nil {
		return "", err
	}
	for _, d := range []string{"etc", "data", "hub", "notifications", "plugins"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return "", err
		}
	}
	var decisions strings.Builder
	decisions.WriteString("duration,reason,scope,type,value\n")
	for entry := range strings.Lines(l.Text()) {
		decisions.WriteString("24h,bench,ip,ban," + entry)
	}
	for name, text := range map[string]string{
		"crowdsec.yaml": crowdsecConfig, "bouncer.yaml": bouncerConfig, "decisions.csv": decisions.String(),
		"etc/simulation.yaml": "simulation: false\n", "hub/.index.json": "{}\n",
		"etc/profiles.yaml": "name: bench\nfilters: [\"false\"]\ndecisions: [{type: ban, duration: 4h}]\n",
	} {
		text = strings.ReplaceAll(text, "${DIR}", dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}
