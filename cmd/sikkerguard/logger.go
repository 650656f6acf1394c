package main

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/outlet"
	"github.com/sikkerapi/sikkerguard/internal/plain"
)

// logger returns a logger that writes one line per event to the returned outlet, which writes to
// out: "18:05:21 INFO Blocking 8774 IPs" on a console, an object in JSON. Neither format escapes a
// newline of the message, so text from outside goes only into fields.
func logger(cfg config.Config, out io.Writer) (*zap.Logger, *outlet.Writer) {
	level := map[config.LogLevel]zapcore.Level{
		config.LogDebug: zapcore.DebugLevel,
		config.LogInfo:  zapcore.InfoLevel,
		config.LogWarn:  zapcore.WarnLevel,
		config.LogError: zapcore.ErrorLevel,
	}[cfg.LogLevel]
	enc := encoder(cfg.LogFormat)
	w := outlet.New(out, func(lost uint64) []byte { return notice(enc, lost) })
	// The outlet never fails, so zap writes nothing to stderr, where it would wait for a reader.
	core := plainCore{zapcore.NewCore(enc, zapcore.AddSync(plain.NewWriter(w)), level)}
	return zap.New(core, zap.ErrorOutput(zapcore.AddSync(io.Discard))), w
}

// notice returns the line that replaces missing lines. It does not depend on the level of the log.
func notice(enc zapcore.Encoder, lost uint64) []byte {
	line, err := enc.Clone().EncodeEntry(
		zapcore.Entry{
			Level: zapcore.WarnLevel, Time: time.Now(),
			Message: "Log lines are missing here: the reader of the log was too slow",
		},
		[]zapcore.Field{zap.Uint64("lines", lost)})
	if err != nil { // no encoder of zap fails for an entry like this
		return nil
	}
	defer line.Free()
	return append([]byte(nil), line.Bytes()...)
}

func encoder(format config.LogFormat) zapcore.Encoder {
	enc := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", MessageKey: "msg",
		EncodeLevel:    ordinary(zapcore.CapitalLevelEncoder),
		EncodeTime:     zapcore.TimeEncoderOfLayout(time.TimeOnly),
		EncodeDuration: zapcore.StringDurationEncoder,
		LineEnding:     zapcore.DefaultLineEnding,
	}
	if format == config.LogJSON {
		enc.EncodeLevel = ordinary(zapcore.LowercaseLevelEncoder)
		enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		return zapcore.NewJSONEncoder(enc)
	}
	enc.ConsoleSeparator = " "
	return zapcore.NewConsoleEncoder(enc)
}

// ordinary returns a level encoder that knows only the levels of SIKKER_LOG_LEVEL. zap has a
// separate level for a contained panic; it is shown as an error.
func ordinary(encode zapcore.LevelEncoder) zapcore.LevelEncoder {
	return func(l zapcore.Level, to zapcore.PrimitiveArrayEncoder) { encode(min(l, zapcore.ErrorLevel), to) }
}
