package nft

import "testing"

// TestSpareSize limits the memory of the spare set by the CPUs that the kernel allocates for, which
// can be more than those that run.
func TestSpareSize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		possible string
		want     int
	}{
		{"0\n", 1 << 16},
		{"0-1\n", 1 << 16},
		{"0-3,8-31\n", 1 << 16},
		{"0-127\n", 1 << 14},
		{"0-255\n", 1 << 13},
	}
	for _, tt := range tests {
		if got := spareSize(cpusOf(tt.possible)); got != tt.want {
			t.Errorf("%q: %d elements, want %d", tt.possible, got, tt.want)
		}
	}
	if n := cpusOf("garbage"); n != 0 {
		t.Errorf("no list has %d CPUs", n)
	}
	if possibleCPUs() < 1 {
		t.Error("this host has no CPU")
	}
}
