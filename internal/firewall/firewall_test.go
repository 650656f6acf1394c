package firewall

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/nft"
)

// TestNoFallback checks that auto falls back only if the kernel has no nf_tables. An error that may
// pass, or that the operator must solve, is returned.
func TestNoFallback(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{
		nft.ErrPermission, nft.ErrOwned, nft.ErrIncomplete, nft.ErrBuffer, errors.New("no buffer space available"),
	} {
		openNFT := func(nft.Options) (Backend, error) { return nil, fmt.Errorf("probe nf_tables: %w", cause) }
		for _, backend := range []string{Auto, "", NFTables} {
			if fw, err := open(Options{Backend: backend}, openNFT); fw != nil || !errors.Is(err, cause) {
				t.Errorf("bad %q: got %v, %v, want %v", backend, fw, err, cause)
			}
		}
	}
	if fw, err := open(Options{Backend: NFTables}, noNFTables); fw != nil || !errors.Is(err, nft.ErrUnsupported) {
		t.Errorf("bad nftables without nf_tables: got %v, %v", fw, err)
	}
	owned := func(nft.Options) (Backend, error) { return nil, nft.ErrOwned }
	if fw, err := open(Options{Backend: IPTables}, owned); fw != nil || !errors.Is(err, nft.ErrOwned) {
		t.Errorf("bad iptables beside an agent with nftables: got %v, %v", fw, err)
	}
	if fw, err := open(Options{Backend: "pf"}, noNFTables); fw != nil || err == nil {
		t.Errorf("bad backend: got %v, %v", fw, err)
	}
}
