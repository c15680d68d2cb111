package openai

import (
	"testing"

	"croft/internal/model/modeltest"
)

func TestConformance(t *testing.T) {
	modeltest.Run(t, modeltest.Suite{
		New: func(t *testing.T, answers ...modeltest.Answer) modeltest.Subject {
			srv := modeltest.OpenAI(t, answers...)
			p, err := New(Options{BaseURL: srv.URL, APIKey: modeltest.Key, Idle: modeltest.Idle(answers)})
			if err != nil {
				t.Fatal(err)
			}
			return modeltest.Subject{Provider: p, Bodies: srv.Bodies, Hang: true}
		},
		Faults: modeltest.Faults(),
	})
}
