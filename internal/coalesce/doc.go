// Package coalesce makes one call of many concurrent ones. It fails only if the called function
// fails.
package coalesce
