// Package tools describes the hand's six tools to a model: name, description and JSON
// Schema of the input. It owns the words alone; package hand does the work. It imports no
// more than encoding/json, so that the orchestration plane can offer the tools without
// linking a pseudo-terminal.
package tools

import "encoding/json"

// Names of the tools, as they stand in agent_toolset_20260401.
const (
	Bash  = "bash"
	Read  = "read"
	Write = "write"
	Edit  = "edit"
	Glob  = "glob"
	Grep  = "grep"
)

// Definition is what a model is told of a tool. Schema is a JSON Schema object.
type Definition struct {
	Name        string
	Description string
	Schema      json.RawMessage
}

// Definitions returns the six tools, always in the same order. The caller owns the slice.
func Definitions() []Definition {
	return []Definition{
		{
			Name: Bash,
			Description: "Run a command in a shell that stays open between calls: the working directory, variables, functions and " +
				"background jobs carry over. Calls run one after another. Standard input is empty, and output and errors come back " +
				"together, followed by the exit code where it is not 0; output beyond 100,000 characters is saved to a file whose path is given. " +
				"A command that takes too long is interrupted (120 seconds unless timeout_ms says otherwise), so start servers in the background, " +
				"with their output in a file. Pass restart instead of a command to get a fresh shell.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"command":{"type":"string","description":"The command or script to run. Needed unless restart is true."},` +
				`"restart":{"type":"boolean","description":"End the shell and what runs in it, and start a fresh one, before the command if there is one."},` +
				`"timeout_ms":{"type":"integer","description":"Milliseconds after which the command is interrupted. Default 120000."}}}`),
		},
		{
			Name: Read,
			Description: "Read a file. Text comes back as it is, without line numbers; PNG, JPEG, GIF and WebP images and PDF documents come " +
				"back as what they are. Of a long file the first 100,000 characters come back: use view_range for the rest.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory the session began in."},` +
				`"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"[first, last] line to read, counted from 1, both included. A last line of 0 or less means the end of the file."}},` +
				`"required":["file_path"]}`),
		},
		{
			Name:        Write,
			Description: "Write a text file, replacing what it held. Missing parent directories are made.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory the session began in."},` +
				`"content":{"type":"string","description":"Everything the file shall hold."}},` +
				`"required":["file_path","content"]}`),
		},
		{
			Name: Edit,
			Description: "Replace text in a file. old_string must stand in it exactly once, whitespace and line ends included, " +
				"unless replace_all is true; give enough of its surroundings to make it unique.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory the session began in."},` +
				`"old_string":{"type":"string","description":"The text to replace."},` +
				`"new_string":{"type":"string","description":"The text to put in its place; empty to delete."},` +
				`"replace_all":{"type":"boolean","description":"Replace every occurrence."}},` +
				`"required":["file_path","old_string","new_string"]}`),
		},
		{
			Name: Glob,
			Description: "List files and directories whose path matches a pattern, as absolute paths, the most recently changed first, at most 200. " +
				"* and ? match within a name, [a-z] one character of a set, {a,b} either, ** any number of directories. " +
				"Hidden names match like others; symbolic links are listed but not followed.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"pattern":{"type":"string","description":"The pattern, such as **/*.go, relative to path or absolute."},` +
				`"path":{"type":"string","description":"Directory to search. Default: the working directory the session began in."}},` +
				`"required":["pattern"]}`),
		},
		{
			Name: Grep,
			Description: "Search the contents of files for a regular expression (RE2 syntax), line by line. Each match comes back as path:line:text. " +
				"Binary files, symbolic links, .git and node_modules are passed over.",
			Schema: json.RawMessage(`{"type":"object","properties":{` +
				`"pattern":{"type":"string","description":"The regular expression, such as func \\w+Error\\("},` +
				`"path":{"type":"string","description":"Directory or file to search. Default: the working directory the session began in."}},` +
				`"required":["pattern"]}`),
		},
	}
}
