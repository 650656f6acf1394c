package blocklist

import "slices"

// The functions of this file take slices of entries that are sorted by compare. Where they do not
// say otherwise, the entries are also disjoint.

// disjoint removes, in place, each entry that an earlier one covers. Of two sorted entries that
// overlap, the earlier is the wider, so comparing with the last entry that stays is enough.
func disjoint[E entry[E]](sorted []E) []E {
	kept := sorted[:0]
	for _, e := range sorted {
		if n := len(kept); n > 0 && kept[n-1].overlaps(e) {
			continue
		}
		kept = append(kept, e)
	}
	return trim(kept)
}

// trim returns es, in a new slice if much of the old one is unused.
func trim[E any](es []E) []E {
	if cap(es)-len(es) > cap(es)/16 {
		return append(make([]E, 0, len(es)), es...)
	}
	return slices.Clip(es)
}

// union returns the entries of a and b, without those that another one covers. It changes neither.
func union[E entry[E]](a, b []E) []E {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	all := make([]E, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].compare(a[0]) < 0 {
			from = &b
		}
		if n := len(all); n == 0 || !all[n-1].overlaps((*from)[0]) {
			all = append(all, (*from)[0])
		}
		*from = (*from)[1:]
	}
	return trim(all)
}

// except returns the entries of es that are not in others.
func except[E entry[E]](es, others []E) []E {
	var rest []E
	for _, e := range es {
		others = others[seek(others, e):]
		if len(others) == 0 || others[0] != e {
			rest = append(rest, e)
		}
	}
	return trim(rest)
}

// overlapping calls visit for each entry of es that holes overlap, with its index and those holes.
// It stops and returns false once visit returns false. If one of the slices is short, it takes a
// logarithmic time for each of its entries.
func overlapping[E entry[E]](es, holes []E, visit func(i int, holes []E) bool) bool {
	for i := 0; len(holes) > 0; {
		if i += meets(es[i:], holes[0]); i == len(es) {
			break
		}
		holes = holes[meets(holes, es[i]):]
		n := 0
		for n < len(holes) && holes[n].overlaps(es[i]) {
			n++
		}
		if n == 0 {
			continue
		}
		if !visit(i, holes[:n]) {
			return false
		}
		i++
	}
	return true
}

// meets returns the index of the first of es that overlaps e or comes after it.
func meets[E entry[E]](es []E, e E) int {
	i := seek(es, e)
	if i > 0 && es[i-1].overlaps(e) { // it is wider than e, and the only one that overlaps e
		i--
	}
	return i
}

// seek returns the index of the first of es that is not less than e. The search begins at the
// start with growing steps, so that repeated searches for ascending entries take a linear time.
func seek[E entry[E]](es []E, e E) int {
	step := 1
	for step <= len(es) && es[step-1].compare(e) < 0 {
		step *= 2
	}
	from := step / 2
	i, _ := slices.BinarySearchFunc(es[from:min(step, len(es))], e, E.compare)
	return from + i
}

// without returns the parts of es outside the holes, and the entries of es of which a hole leaves
// several parts. If no entry overlaps a hole, it returns es itself.
func without[E entry[E]](es, holes []E) (kept, split []E) {
	end, cutAny := 0, false // es[:end] has been copied to kept
	overlapping(es, holes, func(i int, holes []E) bool {
		if !cutAny {
			kept, cutAny = make([]E, 0, len(es)), true
		}
		kept = append(kept, es[end:i]...)
		before := len(kept)
		kept = cut(kept, es[i], holes)
		if len(kept) > before+1 {
			split = append(split, es[i])
		}
		end = i + 1
		return true
	})
	if !cutAny {
		return es, nil
	}
	return trim(append(kept, es[end:]...)), split
}

// cut appends the parts of e outside the holes to parts, in ascending order. Each hole overlaps e.
func cut[E entry[E]](parts []E, e E, holes []E) []E {
	if len(holes) == 0 {
		return append(parts, e)
	}
	if holes[0].bits() <= e.bits() {
		return parts
	}
	lower, upper := e.halves()
	n := 0
	for n < len(holes) && holes[n].overlaps(lower) {
		n++
	}
	return cut(cut(parts, lower, holes[:n]), upper, holes[n:])
}
