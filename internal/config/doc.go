// Package config turns SIKKER_ variables into one checked, immutable Config.
//
// Mine: one table (variables.go) that drives loading, checking, `sikkerguard --help` and docs/configuration.md; viper, which
// lives here alone and gives defaults and texts, never its lenient conversions; and the API key, which no error, warning or
// way of printing a Config shows. Not mine: the process environment, which the caller hands in, and what a value means to a
// stage, which is the agent's business.
//
// What can fail: every problem is reported at once, as an *Error, with the value as it was and what is accepted. Files that
// variables name are looked at once, while loading: the key file is read, the custom blacklist must be readable.
package config
