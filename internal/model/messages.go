package model

import "slices"

// SystemLast returns messages with each system message moved behind the user messages that
// it stands among: such a message has its place right before the assistant's turn, and must
// not come between a tool call and its result. The order is kept otherwise. It returns
// messages itself when nothing has to move.
func SystemLast(messages []Message) []Message {
	out := messages
	for begin := 0; begin < len(messages); {
		end := begin
		for end < len(messages) && messages[end].Role != "assistant" {
			end++
		}
		// The run from begin to end is what came between two turns of the assistant.
		if run := messages[begin:end]; !slices.IsSortedFunc(run, systemBehind) {
			if &out[0] == &messages[0] {
				out = slices.Clone(messages)
			}
			slices.SortStableFunc(out[begin:end], systemBehind)
		}
		begin = end + 1
	}
	return out
}

func systemBehind(a, b Message) int {
	rank := func(m Message) int {
		if m.Role == "system" {
			return 1
		}
		return 0
	}
	return rank(a) - rank(b)
}
