package tools_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/google/go-cmp/cmp"

	"croft/internal/hand/tools"
)

// The schemas have the fields of the SDK's input types, the required ones required.
func TestDefinitionsMatchTheSDK(t *testing.T) {
	inputs := map[string]any{
		tools.Bash:  anthropic.BetaManagedAgentsAgentToolset20260401BashInput{},
		tools.Read:  anthropic.BetaManagedAgentsAgentToolset20260401ReadInput{},
		tools.Write: anthropic.BetaManagedAgentsAgentToolset20260401WriteInput{},
		tools.Edit:  anthropic.BetaManagedAgentsAgentToolset20260401EditInput{},
		tools.Glob:  anthropic.BetaManagedAgentsAgentToolset20260401GlobInput{},
		tools.Grep:  anthropic.BetaManagedAgentsAgentToolset20260401GrepInput{},
	}
	kinds := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int64: "integer", reflect.Slice: "array"}
	type shape struct {
		Fields   map[string]string
		Required []string
	}
	defs := tools.Definitions()
	if len(defs) != len(inputs) {
		t.Errorf("%d definitions", len(defs))
	}
	for _, def := range defs {
		want := shape{Fields: make(map[string]string)}
		typ := reflect.TypeOf(inputs[def.Name])
		if typ == nil {
			t.Errorf("the SDK has no tool %q", def.Name)
			continue
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Name == "JSON" {
				continue
			}
			name := f.Tag.Get("json")
			want.Fields[name] = kinds[f.Type.Kind()]
			if f.Tag.Get("api") == "required" {
				want.Required = append(want.Required, name)
			}
		}
		var schema struct {
			Type       string
			Properties map[string]struct{ Type, Description string }
			Required   []string
		}
		if err := json.Unmarshal(def.Schema, &schema); err != nil {
			t.Errorf("%s: %v", def.Name, err)
		}
		got := shape{Fields: make(map[string]string), Required: schema.Required}
		for name, p := range schema.Properties {
			got.Fields[name] = p.Type
			if p.Description == "" {
				t.Errorf("%s: %s is not described", def.Name, name)
			}
		}
		slices.Sort(got.Required)
		slices.Sort(want.Required)
		if diff := cmp.Diff(want, got); diff != "" || schema.Type != "object" || def.Description == "" {
			t.Errorf("%s (-SDK +ours):\n%s", def.Name, diff)
		}
	}
}
