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

// logger writes one line an event to the outlet that it returns and that leads to out: "18:05:21
// INFO Blocking 8774 IPs" on a console, an object in JSON. Neither escapes a newline of the
// message, so text from outside goes into fields.
func logger(cfg config.Config, out io.Writer) (*zap.Logger, *outlet.Writer) {
	level := map[config.LogLevel]zapcore.Level{
		config.LogDebug: zapcore.DebugLevel,
		config.LogInfo:  zapcore.InfoLevel,
		config.LogWarn:  zapcore.WarnLevel,
		config.LogError: zapcore.ErrorLevel,
	}[cfg.LogLevel]
	enc := encoder(cfg.LogFormat)
	w := outlet.New(out, func(lost uint64) []byte { return notice(enc, lost) })
	// The outlet never fails, so that zap has nothing to say on stderr, where it would wait for a
	// reader.
	core := plainCore{zapcore.NewCore(enc, zapcore.AddSync(plain.NewWriter(w)), level)}
	return zap.New(core, zap.ErrorOutput(zapcore.AddSync(io.Discard))), w
}

// notice is the line that stands where lines are missing, whatever the level of the log is.
func notice(enc zapcore.Encoder, lost uint64) []byte {
	line, err := enc.Clone().EncodeEntry(
		zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "Log lines are missing here: their reader did not read"},
		[]zapcore.Field{zap.Uint64("lines", lost)})
	if err != nil { // no encoder of zap's returns one for an entry like this
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

// ordinary returns a level encoder that knows only the levels of SIKKER_LOG_LEVEL: a contained
// panic, which zap has a level of its own for, is an error to who reads the log.
func ordinary(encode zapcore.LevelEncoder) zapcore.LevelEncoder {
	return func(l zapcore.Level, to zapcore.PrimitiveArrayEncoder) { encode(min(l, zapcore.ErrorLevel), to) }
}
