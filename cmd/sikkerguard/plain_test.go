package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

// hostile is text that a terminal interprets, that looks like other text, or that starts a new
// line.
const hostile = "evil\x1b[2J\x1b]0;owned\a\r\n18:05:21 INFO all is well\x7f\u009b31m\u202egnp\u2066\u200b\xff\xfe"

// interpreted reports whether a terminal interprets r or r is not valid UTF-8.
func interpreted(r rune) bool { return !unicode.IsPrint(r) && r != '\t' || r == utf8.RuneError }

// judge fails the test if text, which was printed at where, contains a character that a terminal
// interprets, or a line that does not match line.
func judge(t *testing.T, where, text string, line *regexp.Regexp) {
	t.Helper()
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if i := strings.IndexFunc(l, interpreted); i >= 0 {
			t.Errorf("%s: a terminal interprets %q", where, l[i:min(len(l), i+20)])
		}
		if len(l) > 4*maxText {
			t.Errorf("%s: a line has %d bytes", where, len(l))
		}
		if line != nil && !line.MatchString(l) {
			t.Errorf("%s: a line that is not the program's own: %q", where, l)
		}
	}
}

// TestHostileEnvironment checks that values of variables, names of variables and names of files are
// printed as plain text.
func TestHostileEnvironment(t *testing.T) {
	t.Parallel()
	key := "SIKKER_API_KEY=sk_test_plain"
	for name, tt := range map[string]struct {
		environ []string
		args    []string
	}{
		"a value":                  {[]string{key, "SIKKER_SCORE_MIN=" + hostile}, nil},
		"a key":                    {[]string{"SIKKER_API_KEY=" + hostile}, nil},
		"a name":                   {[]string{key, "SIKKER_" + hostile + "=1"}, nil},
		"a service":                {[]string{key, "SIKKER_PORT_MAP=" + hostile + "=22"}, nil},
		"a port":                   {[]string{key, "SIKKER_PORT_MAP=ssh=" + hostile}, nil},
		"an address":               {[]string{key, "SIKKER_WHITELIST=" + hostile}, nil},
		"a URL":                    {[]string{key, "SIKKER_API_URL=http://" + hostile}, nil},
		"a list of the operator's": {[]string{key, "SIKKER_CUSTOM_BLACKLIST=/" + hostile}, nil},
		"a key file":               {[]string{"SIKKER_API_KEY_FILE=/" + hostile}, nil},
		"a state directory":        {[]string{"SIKKER_STATE_DIR=/nowhere/" + hostile}, []string{"pull"}},
		"a command":                {nil, []string{hostile}},
		"a flag":                   {nil, []string{"pull", "--" + hostile}},
		"a port to ask at":         {[]string{"SIKKER_HEALTH_PORT=" + hostile}, []string{"healthcheck"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c := command(tt.environ, &out)
			c.SetArgs(tt.args)
			err := c.ExecuteContext(t.Context())
			if err == nil {
				t.Fatal("it succeeded")
			}
			judge(t, "stdout", out.String(), nil)
			judge(t, "stderr", complaint(err), regexp.MustCompile("^sikkerguard: |^  SIKKER_"))
		})
	}
	judge(t, "stderr", complaint(errors.Join(errors.New(hostile), errors.New(strings.Repeat("x", 1<<16)))),
		regexp.MustCompile("^sikkerguard: "))
}

// TestHostileLog checks that each message and field of the log is one bounded line in both formats.
func TestHostileLog(t *testing.T) {
	t.Parallel()
	for format, line := range map[config.LogFormat]string{
		config.LogConsole: `^\d\d:\d\d:\d\d WARN evil \[2J`,
		config.LogJSON:    `^\{"level":"warn","time":"[^"]*","msg":"evil \[2J.*\}$`,
	} {
		var out bytes.Buffer
		l, outlet := logger(config.Config{LogLevel: config.LogInfo, LogFormat: format}, &out)
		flush := outlet.Start()
		l.With(zap.String("with", hostile)).Warn(hostile, zap.String("text", hostile), zap.Error(errors.New(hostile)),
			zap.Strings("texts", []string{hostile}), zap.NamedError("long", errors.New(strings.Repeat(hostile, 1000))),
			zap.Stringer("address", net.IPv4(192, 0, 2, 1)), zap.Error(nil))
		flush(time.Minute)
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("%s: %d lines", format, n)
		}
		judge(t, string(format), out.String(), regexp.MustCompile(line))
	}
}

// buffer collects the output of a running program.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// hostilePeer returns the URL of an API whose certificate has names hostile names, or that answers
// without TLS if names is 0.
func hostilePeer(t *testing.T, names int, answer http.HandlerFunc) (url string) {
	t.Helper()
	s := httptest.NewUnstartedServer(answer)
	t.Cleanup(s.Close)
	if names == 0 {
		s.Start()
		return s.URL
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ascii := strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return -1
		}
		return r
	}, hostile)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: slices.Repeat([]string{ascii}, names),
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://localhost:" + port
}

// TestHostilePeer runs the agent as a dry run against a hostile API, and checks all its output:
// log, /status, /healthz, `sikkerguard pull` and `sikkerguard healthcheck`.
func TestHostilePeer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		url  string
		evil string // shows that the text is in the output, as plain text
	}{
		"a certificate": {hostilePeer(t, 1, nil), "evil [2J"},
		// of more names the library prints only the number
		"a certificate with many names": {hostilePeer(t, 80, nil), "evil"},
		"an error": {hostilePeer(t, 0, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprintf(w, `{"error":{"message":%q}}`, hostile)
		}), "500"},
		"a list line": {hostilePeer(t, 0, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.ReplaceAll(hostile, "\n", "")+"\n")
		}), "guard"},
		"a header": {hostilePeer(t, 0, func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 200 "+hostile+"\r\n\r\n")
				_ = c.Close()
			}
		}), "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "s")
			custom := filepath.Join(t.TempDir(), strings.ReplaceAll(hostile, "/", ""))
			if err := os.WriteFile(custom, []byte("192.0.2.300 "+hostile+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			port := freePort(t)
			environ := []string{
				"SIKKER_API_KEY=sk_test_plain", "SIKKER_DRY_RUN=true", "SIKKER_API_URL=" + tt.url,
				"SIKKER_STATE_DIR=" + dir,
				"SIKKER_CUSTOM_BLACKLIST=" + custom, "SIKKER_HEALTH_PORT=" + strconv.Itoa(port),
			}
			var out buffer
			ctx, cancel := context.WithCancel(t.Context())
			endedC := make(chan error, 1)
			go func() {
				c := command(environ, &out)
				c.SetArgs(nil)
				endedC <- c.ExecuteContext(ctx)
			}()
			end := time.Now().Add(30 * time.Second)
			started := func() bool { // the file is read by a task of its own
				return strings.Contains(out.String(), "SikkerGuard running") && strings.Contains(out.String(), "Custom blacklist is refused")
			}
			for ; !started(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("it does not run:\n%s", out.String())
				}
			}
			var pulled bytes.Buffer
			pull := command(environ, &pulled)
			pull.SetArgs([]string{"pull"})
			err := pull.ExecuteContext(ctx)
			if !errors.Is(err, errNotActive) {
				t.Errorf("pull: %v", err)
			}
			judge(t, "pull", pulled.String(), regexp.MustCompile("^Dry run without a new list: "))
			if !strings.Contains(pulled.String(), tt.evil) {
				t.Errorf("pull does not print %q: %q", tt.evil, pulled.String())
			}
			check := command(environ, io.Discard)
			check.SetArgs([]string{"healthcheck"})
			if err := check.ExecuteContext(ctx); err != nil {
				judge(t, "healthcheck", complaint(err), regexp.MustCompile("^sikkerguard: "))
			}
			for _, path := range []string{"/healthz", "/status"} {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet,
					fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := http.DefaultClient.Do(req) //nolint:forbidigo // a test's
				if err != nil {
					t.Fatal(err)
				}
				raw, err := io.ReadAll(res.Body)
				if err := errors.Join(err, res.Body.Close()); err != nil {
					t.Fatal(err)
				}
				judge(t, path, string(raw), nil)
			}
			cancel()
			if err := <-endedC; err != nil {
				t.Error(err)
			}
			said := out.String()
			line := `^\d\d:\d\d:\d\d (INFO|WARN|ERROR) (?:[^a]|a[^l])|^SikkerGuard v|^Firewall protection`
			judge(t, "log", said, regexp.MustCompile(line))
			if !strings.Contains(said, tt.evil) || !strings.Contains(said, "Custom blacklist is refused") {
				t.Errorf("the log does not say %q:\n%s", tt.evil, said)
			}
		})
	}
}

// freePort returns a port that no program has now. It is below those that the kernel gives by
// itself, so that no connection takes it meanwhile.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		port := 12000 + mathrand.IntN(18000)
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		return port
	}
}

// TestCommandsPrintPlainText checks that the output of all commands goes through the writer of
// plain text.
func TestCommandsPrintPlainText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if _, err := io.WriteString(command(nil, &out).OutOrStdout(), hostile+"\n"); err != nil {
		t.Fatal(err)
	}
	judge(t, "stdout", out.String(), nil)
	if !strings.HasPrefix(out.String(), "evil [2J") {
		t.Errorf("printed %q", out.String())
	}
}
