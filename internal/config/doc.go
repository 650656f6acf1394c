// Package config turns SIKKER_ variables into one checked, immutable Config.
//
// One table (variables.go) drives loading, checking, `sikkerguard --help` and
// docs/configuration.md. Only this package uses viper, for defaults and texts and never for its
// lenient conversions. No error, warning or way to print a Config shows the API key. The caller
// passes the process environment in. The agent passes the values on to the stages.
//
// Load reports all problems at once as an *Error, each with the value and the accepted values. It
// reads the key file and checks that the custom blacklist is readable.
package config
