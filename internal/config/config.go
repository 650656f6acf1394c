package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Config is the whole configuration, checked. It is a value: nobody changes what its slices and pointers lead to.
type Config struct {
	APIKey          Secret
	ScoreMin        int
	PullInterval    time.Duration
	ReportEnabled   bool
	ReportInterval  time.Duration
	Whitelist       []netip.Prefix // canonical; an address is the prefix that holds it alone
	Ports           PortMap
	DryRun          bool
	HealthPort      uint16
	CustomBlacklist string // absolute path; empty: none
	APIURL          *url.URL
	Backend         Backend
	OnCrash         OnCrash
	NFLOGGroup      uint16
	LogRate         uint32 // packets a second
	StateDir        string // absolute path
	LogLevel        LogLevel
	LogFormat       LogFormat

	Warnings []string // what is accepted and should not stay so
}

// Backend is how the list is put into the kernel.
type Backend string

// The values of SIKKER_BACKEND.
const (
	BackendAuto     Backend = "auto"
	BackendNFTables Backend = "nftables"
	BackendIPTables Backend = "iptables"
)

// OnCrash is what becomes of the rules when the agent is killed.
type OnCrash string

// The values of SIKKER_ON_CRASH.
const (
	OnCrashRelease OnCrash = "release"
	OnCrashKeep    OnCrash = "keep"
)

// LogLevel is the least severe event that is logged.
type LogLevel string

// The values of SIKKER_LOG_LEVEL.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is how an event is written.
type LogFormat string

// The values of SIKKER_LOG_FORMAT.
const (
	LogConsole LogFormat = "console"
	LogJSON    LogFormat = "json"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Variable string
	Text     string // what is wrong, with the value, and what is accepted; never the API key
}

func (p Problem) String() string { return p.Variable + p.Text }

// Error is everything that is wrong with the configuration, in the order of the variables table.
type Error struct {
	Problems []Problem
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d configuration problems:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// raw is the variables as viper decodes them: texts, so that viper's lenient conversions ("010" is 8, "12x" is 0) never
// see a value.
type raw map[string]string

// Load reads and checks the SIKKER_ variables of environ, which is like os.Environ(). The error is an *Error. Files that
// variables name are looked at: the key file is read, the custom blacklist must be readable.
func Load(environ []string) (Config, error) {
	values, problems, err := read(environ)
	if err != nil {
		return Config{}, err
	}
	l := loader{values: values, problems: problems}
	for _, v := range variables() {
		if v.set != nil {
			if problem := v.set(&l, values[v.key()]); problem != "" {
				l.problems = append(l.problems, Problem{Variable: v.Name, Text: problem})
			}
		}
	}
	if len(l.problems) > 0 {
		return Config{}, &Error{Problems: l.problems}
	}
	return l.cfg, nil
}

// HealthPort reads SIKKER_HEALTH_PORT alone, for a command that needs nothing else and no key.
func HealthPort(environ []string) (uint16, error) {
	l, err := loadOne(environ, prefix+"HEALTH_PORT")
	return l.cfg.HealthPort, err
}

// StateDir reads SIKKER_STATE_DIR alone, for a command that needs nothing else and no key.
func StateDir(environ []string) (string, error) {
	l, err := loadOne(environ, prefix+"STATE_DIR")
	return l.cfg.StateDir, err
}

// loadOne reads one variable and looks at no other.
func loadOne(environ []string, name string) (loader, error) {
	values, _, err := read(environ)
	l := loader{values: values}
	if err != nil {
		return l, err
	}
	for _, v := range variables() {
		if v.Name != name {
			continue
		}
		if problem := v.set(&l, values[v.key()]); problem != "" {
			return l, &Error{Problems: []Problem{{Variable: v.Name, Text: problem}}}
		}
	}
	return l, nil
}

// read gives every known variable its value or its default, and names the unknown ones. An empty value counts as not set.
func read(environ []string) (raw, []Problem, error) {
	known := map[string]bool{}
	v := viper.New()
	for _, variable := range variables() {
		known[variable.Name] = true
		v.SetDefault(variable.key(), variable.Default)
	}
	var problems []Problem
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(strings.ToUpper(name), prefix):
		case !known[name]:
			problems = append(problems, Problem{Variable: fmt.Sprintf("%.80q", name), Text: unknown(name)})
		case strings.TrimSpace(value) != "":
			v.Set(strings.ToLower(strings.TrimPrefix(name, prefix)), strings.TrimSpace(value))
		}
	}
	values := raw{}
	// Strict: no conversion from one type to another.
	err := v.Unmarshal(&values, func(c *mapstructure.DecoderConfig) { c.WeaklyTypedInput = false })
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	return values, problems, nil
}

// loader is the configuration while it is checked.
type loader struct {
	values   raw
	cfg      Config
	problems []Problem
}
