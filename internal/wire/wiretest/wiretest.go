// Package wiretest checks answers against the official Go SDK's types. Tests alone import it.
package wiretest

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/packages/respjson"
)

// Decode reads an answer into one of the SDK's types and checks it with Complete.
func Decode[T any](t testing.TB, answer []byte) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal(answer, v); err != nil {
		t.Fatalf("the SDK's %T does not read %s: %v", v, answer, err)
	}
	Complete(t, v)
	return v
}

// Complete checks that every member that the SDK calls required was there, at every depth,
// and that there was none that it does not know, the member croft aside.
func Complete(t testing.TB, v any) {
	t.Helper()
	complete(t, reflect.ValueOf(v), reflect.TypeOf(v).String())
}

func complete(t testing.TB, v reflect.Value, path string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			complete(t, v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			complete(t, v.Index(i), path+"[]")
		}
	case reflect.Struct:
		if any := v.MethodByName("AsAny"); any.IsValid() {
			// A union: its variant says what is required.
			raw := v.MethodByName("RawJSON").Call(nil)[0].String()
			variant := any.Call(nil)[0]
			if raw == "" || raw == "null" {
				return
			}
			if variant.IsNil() {
				t.Errorf("%s: the SDK knows no variant of %s", path, raw)
				return
			}
			complete(t, variant, path)
			return
		}
		members(t, v, path)
	}
}

func members(t testing.TB, v reflect.Value, path string) {
	t.Helper()
	meta := v.FieldByName("JSON")
	if !meta.IsValid() {
		return
	}
	if raw := v.MethodByName("RawJSON").Call(nil)[0].String(); raw == "" || raw == "null" {
		return
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		m := meta.FieldByName(f.Name)
		if f.Name == "JSON" || f.Name == "ExtraFields" || !m.IsValid() {
			continue
		}
		_, constant := f.Tag.Lookup("default")
		switch field := m.Interface().(respjson.Field); {
		case field.Raw() == "" && (constant || f.Tag.Get("api") == "required"):
			t.Errorf("%s.%s is missing", path, f.Tag.Get("json"))
		case field.Raw() != "" && field.Raw() != "null" && !field.Valid():
			t.Errorf("%s.%s has another type: %s", path, f.Tag.Get("json"), field.Raw())
		}
		complete(t, v.Field(i), path+"."+f.Tag.Get("json"))
	}
	if extra := meta.FieldByName("ExtraFields"); extra.IsValid() && !v.FieldByName("ExtraFields").IsValid() {
		for _, k := range extra.MapKeys() {
			if k.String() != "croft" {
				t.Errorf("%s.%s is not known to the SDK", path, k)
			}
		}
	}
}
