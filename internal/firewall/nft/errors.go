package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that classify the kernel's answers. Operators read these texts.
var (
	// ErrUnsupported means that the kernel has no nf_tables.
	ErrUnsupported = errors.New(
		"the kernel has no nf_tables, or cannot load it (run modprobe nf_tables on the host)")
	// ErrIncomplete means that the kernel has nf_tables without an expression or log backend that
	// the rules need.
	ErrIncomplete = errors.New("the kernel lacks a part of nf_tables that the rules need " +
		"(run modprobe -a nft_limit nft_log nfnetlink_log nft_objref on the host)")
	// ErrPermission means that CAP_NET_ADMIN is missing.
	ErrPermission = errors.New("not permitted to change the firewall: " +
		"run as root with CAP_NET_ADMIN (in Docker: cap_add: [NET_ADMIN])")
	// ErrOwned means that another live process owns the table.
	ErrOwned = errors.New("another SikkerGuard runs on this host and owns table inet " + tableName + ": stop it first")
	// ErrBuffer means that the transaction does not fit the socket's send buffer. In a user
	// namespace the buffer cannot exceed net.core.wmem_max.
	ErrBuffer = errors.New("the list does not fit into one kernel transaction here " +
		"(raise net.core.wmem_max on the host)")
)

// diagnose classifies an error of a request that probes for nf_tables, where EINVAL and ENOENT mean
// that the kernel lacks it or a part of it.
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

// classify wraps an error of a transaction in the sentinel that explains it. EPERM is a missing
// capability here: explain has checked the table's owner before.
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
