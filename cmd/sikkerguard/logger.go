package main

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

// logger writes one line an event to out: "18:05:21 INFO Blocking 8774 IPs" on a console, an object in JSON. Neither
// escapes a newline of the message, so text from outside goes into fields.
func logger(cfg config.Config, out io.Writer) *zap.Logger {
	level := map[config.LogLevel]zapcore.Level{
		config.LogDebug: zapcore.DebugLevel,
		config.LogInfo:  zapcore.InfoLevel,
		config.LogWarn:  zapcore.WarnLevel,
		config.LogError: zapcore.ErrorLevel,
	}[cfg.LogLevel]
	enc := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", MessageKey: "msg",
		EncodeLevel:    zapcore.CapitalLevelEncoder,
		EncodeTime:     zapcore.TimeEncoderOfLayout(time.TimeOnly),
		EncodeDuration: zapcore.StringDurationEncoder,
		LineEnding:     zapcore.DefaultLineEnding,
	}
	encoder := zapcore.NewConsoleEncoder
	if cfg.LogFormat == config.LogJSON {
		encoder = zapcore.NewJSONEncoder
		enc.EncodeLevel = zapcore.LowercaseLevelEncoder
		enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	} else {
		enc.ConsoleSeparator = " "
	}
	return zap.New(plainCore{zapcore.NewCore(encoder(enc), zapcore.Lock(zapcore.AddSync(out)), level)})
}
