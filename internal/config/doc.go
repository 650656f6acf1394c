// Package config turns SIKKER_ variables into one checked, immutable Config.
//
// One table (variables.go) drives loading, checking, `sikkerguard --help` and docs/configuration.md. viper lives here
// alone. Every problem is reported at once, as an *Error, with the value as it was and what is accepted; the API key never
// is. What a value means to a stage is the agent's business.
package config
