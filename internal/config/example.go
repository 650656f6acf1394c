package config

import (
	"fmt"
	"regexp"
	"strings"
)

const exampleHead = `# Copy this file to .env (install -m 600 .env.example .env), put your key in, and run docker compose up -d. Nothing else is
# needed.
# A line that begins with #SIKKER_ has no effect until the # is taken away. What it shows is the default, or an example
# where that is said. docs/configuration.md says more.
# This file is generated from the table that the agent itself uses (make docs).
`

// exampleWidth is how long a line of .env.example may be.
const exampleWidth = 120

// EnvExample is .env.example: every variable with its meaning and its default, or an example where it has none. Only the
// API key is set, to nothing.
func EnvExample() string {
	var b strings.Builder
	b.WriteString(exampleHead)
	for _, v := range variables() {
		text := v.text + " Accepted: " + v.rule.accepted
		value := v.def
		if value == "" && v.example != "" {
			value = v.example
			text += " (an example)"
		}
		text += "."
		if v.note != "" {
			text += " This version: " + v.note + "."
		}
		b.WriteString("\n" + comment(text))
		mark := "#"
		if v.name == apiKey {
			mark = ""
		}
		fmt.Fprintf(&b, "%s%s=%s\n", mark, v.name, value)
	}
	return b.String()
}

var markdownLink = regexp.MustCompile(`\[([^]]+)\]\([^)]*\)`)

// comment is Markdown text as lines that begin with #.
func comment(text string) string {
	text = strings.ReplaceAll(markdownLink.ReplaceAllString(text, "$1"), "`", "")
	var b strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > exampleWidth {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}
