// Package coalesce makes one call of many. It fails only as the function that it calls does.
package coalesce
