package sensor

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain holds every test to leaving no goroutine behind, the library's included.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
