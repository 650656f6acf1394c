package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Config is the checked configuration. It is a value: its slices and pointers are never written to.
type Config struct {
	APIKey          Secret
	ScoreMin        int
	PullInterval    time.Duration
	ReportEnabled   bool
	ReportInterval  time.Duration
	Whitelist       []netip.Prefix // canonical; a single address is a prefix of full length
	Ports           PortMap
	DryRun          bool
	HealthPort      uint16
	CustomBlacklist string // absolute path; empty if there is none
	APIURL          *url.URL
	Backend         Backend
	OnCrash         OnCrash
	NFLOGGroup      uint16
	LogRate         uint32 // packets per second
	StateDir        string // absolute path
	LogLevel        LogLevel
	LogFormat       LogFormat

	Warnings []string // accepted settings that the operator should change
}

// Backend is the kernel interface that enforces the list.
type Backend string

// The values of SIKKER_BACKEND.
const (
	BackendAuto     Backend = "auto"
	BackendNFTables Backend = "nftables"
	BackendIPTables Backend = "iptables"
)

// OnCrash is the fate of the rules if the agent is killed.
type OnCrash string

// The values of SIKKER_ON_CRASH.
const (
	OnCrashRelease OnCrash = "release"
	OnCrashKeep    OnCrash = "keep"
)

// LogLevel is the least severe level that is logged.
type LogLevel string

// The values of SIKKER_LOG_LEVEL.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is the format of log lines.
type LogFormat string

// The values of SIKKER_LOG_FORMAT.
const (
	LogConsole LogFormat = "console"
	LogJSON    LogFormat = "json"
)

// Problem is one fault of the configuration.
type Problem struct {
	Variable string // if the name is unknown, only the part that is safe to show
	Text     string // follows the variable: the value, the accepted values, the remedy; never the API key
}

func (p Problem) String() string { return p.Variable + p.Text }

// Error is all problems of the configuration: unknown names first, then in the order of the
// variables table.
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

// raw is the variables as viper decodes them: texts, so that no value goes through the lenient
// conversions of viper ("010" is 8, "12x" is 0).
type raw map[string]string

// Load reads and checks the SIKKER_ variables of environ, which has the form of os.Environ(). The
// error is an *Error. Load reads the key file and checks that the custom blacklist is readable.
func Load(environ []string) (Config, error) {
	l, unknown, err := read(environ)
	if err != nil {
		return Config{}, err
	}
	for _, v := range variables() {
		l.check(v)
	}
	l.warnOfMisspelt()
	// Last, when the key is known, but reported first: other problems may follow from a misspelt
	// name.
	problems := make([]Problem, 0, len(unknown)+len(l.problems))
	for _, name := range unknown {
		problems = append(problems, l.unknown(name))
	}
	if problems = append(problems, l.problems...); len(problems) > 0 {
		return Config{}, &Error{Problems: problems}
	}
	return l.cfg, nil
}

// HealthPort reads only SIKKER_HEALTH_PORT, for commands that need nothing else and no key.
func HealthPort(environ []string) (uint16, error) {
	l, err := loadOne(environ, prefix+"HEALTH_PORT")
	return l.cfg.HealthPort, err
}

// StateDir reads only SIKKER_STATE_DIR, for commands that need nothing else and no key.
func StateDir(environ []string) (string, error) {
	l, err := loadOne(environ, prefix+"STATE_DIR")
	return l.cfg.StateDir, err
}

// loadOne reads one variable and ignores all others.
func loadOne(environ []string, name string) (*loader, error) {
	l, _, err := read(environ)
	if err != nil {
		return &loader{}, err
	}
	for _, v := range variables() {
		if v.name == name {
			l.check(v)
		}
	}
	if len(l.problems) > 0 {
		return &loader{}, &Error{Problems: l.problems}
	}
	return l, nil
}

// read gives every known variable its value or its default, and returns the unknown names. An empty
// value counts as not set.
func read(environ []string) (l *loader, unknown []string, err error) {
	known := map[string]bool{}
	v := viper.New()
	for _, row := range variables() {
		known[row.name] = true
		v.SetDefault(viperKey(row.name), row.def)
	}
	var others []string
	for _, setting := range environ {
		name, value, _ := strings.Cut(setting, "=")
		value = unquoted(value)
		switch {
		case !strings.HasPrefix(strings.ToUpper(name), prefix):
			others = append(others, name)
		case !known[name]:
			unknown = append(unknown, name)
		case value != "":
			v.Set(viperKey(name), value)
		}
	}
	slices.Sort(unknown)
	l = &loader{values: raw{}, meant: meant(others)}
	// Strict: no conversion from one type to another.
	err = v.Unmarshal(&l.values, func(c *mapstructure.DecoderConfig) { c.WeaklyTypedInput = false })
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	l.values[viperKey(apiKey)] = bareKey(l.values[viperKey(apiKey)])
	l.key = l.values[viperKey(apiKey)]
	return l, slices.Compact(unknown), nil
}

// loader is the configuration while it is being checked.
type loader struct {
	values   raw
	key      string            // value given as the key, valid or not; never shown
	meant    map[string]string // misspelt names by the variable that they resemble
	cfg      Config
	problems []Problem
}

// check reads one variable. If a value contains the key, the problem does not repeat it, whichever
// variable it is in.
func (l *loader) check(v variable) {
	value := l.values[viperKey(v.name)]
	var problem string
	if v.name != apiKey && value != v.def && l.holdsKey(value) {
		problem = " contains an API key: move it to " + apiKey + ", or into the file of " + apiKeyFile
	} else {
		problem = v.rule.set(l, value)
	}
	if problem != "" {
		l.problems = append(l.problems, Problem{Variable: v.name, Text: problem})
	}
}
