package firewall

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/nft"
)

// TestNoFallback shows that auto falls back for want of nf_tables alone: whatever may pass, or is for the operator to
// mend, is an error.
func TestNoFallback(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{nft.ErrPermission, nft.ErrOwned, nft.ErrIncomplete, nft.ErrBuffer, errors.New("no buffer space available")} {
		openNFT := func(nft.Options) (Backend, error) { return nil, fmt.Errorf("try nf_tables: %w", cause) }
		for _, backend := range []string{Auto, "", NFTables} {
			if fw, err := open(Options{Backend: backend}, openNFT); fw != nil || !errors.Is(err, cause) {
				t.Errorf("bad %q: got %v, %v, want %v", backend, fw, err, cause)
			}
		}
	}
	if fw, err := open(Options{Backend: NFTables}, noNFTables); fw != nil || !errors.Is(err, nft.ErrUnsupported) {
		t.Errorf("bad nftables where there is none: got %v, %v", fw, err)
	}
	if fw, err := open(Options{Backend: IPTables}, func(nft.Options) (Backend, error) { return nil, nft.ErrOwned }); fw != nil || !errors.Is(err, nft.ErrOwned) {
		t.Errorf("bad iptables beside an agent with nftables: got %v, %v", fw, err)
	}
	if fw, err := open(Options{Backend: "pf"}, noNFTables); fw != nil || err == nil {
		t.Errorf("bad backend: got %v, %v", fw, err)
	}
}
