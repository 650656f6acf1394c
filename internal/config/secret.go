package config

import (
	"fmt"
	"io"
)

// redacted is what every way of printing a Secret prints.
const redacted = "[redacted]"

// Secret is a text that does not print. Reveal is the only way to it.
type Secret struct {
	text string
}

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal is the text itself. It goes into a request and nowhere else.
func (s Secret) Reveal() string { return s.text }

// Format implements fmt.Formatter for every verb, so that no %#v or %x shows the text.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, which JSON and the log use too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
