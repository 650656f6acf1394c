package config

import (
	"fmt"
	"regexp"
	"strings"
)

const exampleHead = `# Copy this file to .env (install -m 600 .env.example .env), set the key, and run
# docker compose up -d. No other variable is needed.
# A line that begins with #SIKKER_ has no effect until the # is removed. It shows the default, or an example if it says
# so. docs/configuration.md has the details.
# make docs generates this file from the table that the agent uses.
`

// exampleWidth is the longest line of .env.example, in columns.
const exampleWidth = 120

// EnvExample returns .env.example: every variable with its meaning and its default, or an example
// if it has none. Only the API key is set, to nothing.
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

// comment returns Markdown text as lines that begin with #.
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
