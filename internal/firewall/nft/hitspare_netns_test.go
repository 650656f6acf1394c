package nft

import "testing"

// TestSpareAgain has another program delete the table: the table that the next list makes gets the
// spare set as well.
func TestSpareAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.table.flags = 0 // as on a kernel without owner
	for _, when := range []string{"first table", "table made again"} {
		h.apply(list("203.0.113.9"), list())
		h.Do(func() {
			if _, err := h.table.Hits(); err != nil {
				t.Fatal(err)
			}
			sets, err := h.table.reads.kernelSets(nftaSetCount)
			if _, ok := sets[spareName]; !ok || err != nil {
				t.Errorf("%s: no spare set, %v", when, err)
			}
		})
		h.Run("nft", "delete", "table", "inet", tableName)
	}
}
