package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The texts are the notices that the licences prescribe; licensecheck recognises them.
const (
	mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS
OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`
	gpl = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU
General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your
option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied
warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more
details.`
)

func TestLicences(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		files map[string]string
		want  string // in the error; empty for none
	}{
		{"OK MIT", map[string]string{"LICENSE": mit, "README.md": gpl}, ""},
		{"OK with a notice", map[string]string{"LICENSE.md": mit, "NOTICE": "Copyright A. Author"}, ""},
		{"bad GPL", map[string]string{"COPYING": gpl}, "GPL-3.0-or-later is not permitted"},
		{
			"bad GPL beside MIT",
			map[string]string{"LICENSE": mit, "LICENSE-PART": gpl},
			"GPL-3.0-or-later is not permitted",
		},
		{"bad none", map[string]string{"README.md": mit}, "no licence was recognised"},
		{"bad unknown text", map[string]string{"LICENSE": "Ask me first."}, "no licence was recognised"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := licences(module{"example.com/m", "v1.0.0", dir})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestLinked checks the licences of the binary itself.
func TestLinked(t *testing.T) {
	t.Parallel()
	mods, err := linked(t.Context(), "../../..")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := notices(&out, mods); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"The Go standard library", "github.com/google/nftables", "modernc.org/sqlite"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("no licence of %s", name)
		}
	}
}
