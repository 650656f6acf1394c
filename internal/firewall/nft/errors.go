package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What the kernel's answers mean to the agent. The texts are what an operator reads.
var (
	// ErrUnsupported means that the kernel has no nf_tables.
	ErrUnsupported = errors.New("the kernel has no nf_tables, or may not load it (modprobe nf_tables on the host)")
	// ErrIncomplete means that nf_tables is there and something the rules need is not.
	ErrIncomplete = errors.New("the kernel lacks a part of nf_tables that the rules need (modprobe nft_limit nft_log nfnetlink_log nft_objref on the host)")
	// ErrPermission means that CAP_NET_ADMIN is missing.
	ErrPermission = errors.New("not permitted to change the firewall: run as root with CAP_NET_ADMIN (in Docker: cap_add: [NET_ADMIN])")
	// ErrOwned means that another live process owns the table.
	ErrOwned = errors.New("another SikkerGuard runs on this host and owns table inet " + tableName + ": stop it first")
	// ErrBuffer means that the socket's buffer could not be made large enough, as in a user namespace.
	ErrBuffer = errors.New("the list is larger than the kernel takes in one transaction here (raise net.core.wmem_max on the host)")
)

// diagnose says what an error means while it is being found out what the kernel can do.
func diagnose(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	default:
		return classify(err)
	}
}

// classify says what an error of a transaction means. The table's owner is asked for before, so EPERM is a missing
// capability here.
func classify(err error) error {
	var meaning error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		meaning = ErrPermission
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS):
		meaning = ErrBuffer
	default:
		return err
	}
	return fmt.Errorf("%w: %w", meaning, err)
}
