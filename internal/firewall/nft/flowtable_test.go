package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestFlowtableNames decodes the kernel's answers about two flowtables.
func TestFlowtableNames(t *testing.T) {
	t.Parallel()
	reply := func(family byte, table, name string) netlink.Message {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: nftaTable, Data: append([]byte(table), 0)},
			{Type: nftaObjName, Data: append([]byte(name), 0)},
			{Type: 4, Data: []byte{0, 0, 0, 1}}, // NFTA_FLOWTABLE_USE
		})
		if err != nil {
			t.Fatal(err)
		}
		return netlink.Message{Data: append([]byte{family, 0, 0, 0}, attrs...)}
	}
	got, err := flowtableNames([]netlink.Message{
		reply(unix.NFPROTO_INET, "router", "slow"),
		reply(unix.NFPROTO_IPV4, "fw", "fast"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fast of table fw", "slow of table router"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := flowtableNames([]netlink.Message{{Data: []byte{1}}}); err == nil {
		t.Error("an answer that is too short is accepted")
	}
}

// TestNoFlowtables asks the kernel in a new namespace, which has no flowtables.
func TestNoFlowtables(t *testing.T) {
	t.Parallel()
	nettest.New(t).Do(func() {
		if names, err := Flowtables(); err != nil || len(names) != 0 {
			t.Errorf("got %q, %v", names, err)
		}
	})
}
