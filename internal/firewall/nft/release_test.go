package nft

import "testing"

func TestSteadyIntervals(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]bool{
		"5.10.0-32-amd64": false, "6.1.0-50-amd64": false, "6.12.117+deb13-amd64": false, "6.16.12": false,
		"5.14.0-503.el9.x86_64": false,
		"6.17.0":                true, "6.18.5-fc": true, "6.20-rc1": true, "7.0.1": true, "10.2": true,
		"": false, "linux": false, "6": false, "6.": false,
	} {
		if got := steadyIntervals(release); got != want {
			t.Errorf("%q: got %v, want %v", release, got, want)
		}
	}
	if r := release(); r == "" {
		t.Error("the running kernel has no release")
	}
}
