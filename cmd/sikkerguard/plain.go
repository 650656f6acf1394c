package main

import (
	"errors"
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/plain"
)

// maxText is the longest text from outside in a line on the terminal or a field of the log, in
// bytes.
const maxText = 1000

// complaint returns the line on stderr for err. Each problem of the configuration has a line; its
// value is quoted.
func complaint(err error) string {
	if _, ok := errors.AsType[configError](err); ok {
		return plain.Text(fmt.Sprintf("sikkerguard: %v\n", err))
	}
	return "sikkerguard: " + plain.Line(plain.Joined(err.Error()), maxText) + "\n"
}

// plainCore makes each message and each field one bounded line before another core writes them.
type plainCore struct{ zapcore.Core }

func (c plainCore) With(fields []zapcore.Field) zapcore.Core {
	return plainCore{c.Core.With(plainFields(fields))}
}

func (c plainCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c plainCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message = plain.Line(e.Message, maxText)
	return c.Core.Write(e, plainFields(fields))
}

// plainFields makes the texts among fields plain. Encoders escape newlines in the other fields, and
// the writer below them removes all characters that a terminal interprets.
func plainFields(fields []zapcore.Field) []zapcore.Field {
	all := make([]zapcore.Field, len(fields))
	for i, f := range fields {
		all[i] = f
		switch f.Type { //nolint:exhaustive // the others hold no text of their own
		case zapcore.StringType, zapcore.ErrorType, zapcore.StringerType:
			m := zapcore.NewMapObjectEncoder()
			f.AddTo(m)
			if text, ok := m.Fields[f.Key].(string); ok {
				all[i] = zap.String(f.Key, plain.Line(plain.Joined(text), maxText))
			}
		}
	}
	return all
}
