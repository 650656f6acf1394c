package sensor

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that the tests leave no goroutine behind, including those of the library.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
