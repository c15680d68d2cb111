package replay

import (
	"encoding/json"
	"testing"

	"croft/internal/model"
	"croft/internal/model/modeltest"
)

// kinds maps the suite's faults to a cassette's. The rest are faults of a wire that a
// cassette does not have.
var kinds = map[modeltest.Fault]fault{
	modeltest.RateLimited:      {kind: faultLimited, times: 1, retryAfter: 7e9},
	modeltest.Overloaded:       {kind: faultOverloaded, times: 1},
	modeltest.OverloadedMidway: {kind: faultOverloaded, times: 1, after: 1},
	modeltest.ServerError:      {kind: faultFailed, times: 1},
	modeltest.Billing:          {kind: faultBilling, times: 1},
	modeltest.BadRequest:       {kind: faultRefused, times: 1},
	modeltest.Cut:              {kind: faultCut, times: 1, after: 1},
}

func TestConformance(t *testing.T) {
	var faults []modeltest.Fault
	for _, f := range modeltest.Faults() {
		if _, ok := kinds[f]; ok {
			faults = append(faults, f)
		}
	}
	modeltest.Run(t, modeltest.Suite{
		New: func(t *testing.T, answers ...modeltest.Answer) modeltest.Subject {
			var turns []turn
			for i, a := range answers {
				tn := turnOf(a)
				switch {
				case a.Fault == modeltest.Stall:
					tn.faults = []fault{{kind: faultHang, times: 1, after: 1}}
				case a.Fault != "":
					// In a cassette the answer to a request that is tried again is the same turn's.
					f := kinds[a.Fault]
					next := turnOf(answers[i+1])
					next.faults = []fault{f}
					turns = append(turns, next)
				}
				if a.Fault == "" || a.Fault == modeltest.Stall {
					turns = append(turns, tn)
				}
			}
			hang := turn{reply: []block{{kind: blockText, text: literalTemplate("x")}}, stop: model.StopEndTurn, faults: []fault{{kind: faultHang, times: 1}}}
			c := &cassette{name: "suite.yaml", timing: AsRecorded, literal: true, conversations: []conversation{{turns: append(turns, hang)}}}
			data, err := encode(c)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse("suite.yaml", data)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			return modeltest.Subject{Provider: p, Hang: true}
		},
		Faults: faults,
		Signed: true,
	})
}

func turnOf(a modeltest.Answer) turn {
	t := turn{stop: a.Stop, usage: a.Usage}
	for _, b := range a.Blocks {
		switch {
		case b.Tool != "":
			t.reply = append(t.reply, block{kind: blockTool, tool: b.Tool, id: b.ID, input: literalTemplate(b.Input)})
		case b.Thinking != "":
			t.reply = append(t.reply, block{kind: blockThinking, text: literalTemplate(b.Thinking), signature: b.Signature})
		default:
			bl := block{kind: blockText}
			all := ""
			for _, c := range b.Chunks {
				all += c
				bl.chunks = append(bl.chunks, chunk{chars: len([]rune(c))})
			}
			bl.text = literalTemplate(all)
			t.reply = append(t.reply, bl)
		}
	}
	return t
}

func rawText(s string) json.RawMessage {
	raw, err := json.Marshal(map[string]string{"type": "text", "text": s})
	if err != nil {
		panic(err)
	}
	return raw
}
