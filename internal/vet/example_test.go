package vet_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// Special-purpose space is removed, and repeated lines count once.
func ExampleVet() {
	v, err := vet.Vet(strings.NewReader("203.0.113.7\n203.0.113.7\n10.0.0.1\n2001:db8::/48\n"), vet.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(v.List.Prefixes(), v.Repeated, v.Special)
	// Output: [203.0.113.7/32 2001:db8::/48] 1 1
}

// A list that looks wrong is refused as a whole, with the name of the guard.
func ExampleVet_refused() {
	_, err := vet.Vet(strings.NewReader("0.0.0.0/1\n"), vet.Options{})
	if refusal, ok := errors.AsType[*vet.RefusalError](err); ok {
		fmt.Println(refusal.Guard)
	}
	// Output: width
}
