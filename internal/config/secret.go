package config

import (
	"fmt"
	"io"
)

// redacted is the output of every way to print a Secret.
const redacted = "[redacted]"

// Secret is a text that does not print. Only Reveal returns it. The zero value holds the empty
// text.
type Secret struct {
	// A pointer, because for a verb that it does not know (%p, a misplaced %w) fmt prints the
	// fields of an operand without calling Format. For a pointer to a string it prints the address.
	text *string
}

// NewSecret returns a Secret that holds text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text. It goes into a request and nowhere else.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Format implements fmt.Formatter for every verb, so that no %#v or %x shows the text.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, which slog and zap use.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
