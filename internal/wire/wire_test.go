package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/wire"
)

func TestParseRefuses(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := []struct{ name, body, want string }{
		{"nothing", "", "the body is empty: accepted is a JSON object"},
		{"white space", " \n", "the body is empty: accepted is a JSON object"},
		{"Latin-1", "{\"a\":\"\xe9\"}", "the body is not UTF-8"},
		{"a byte order mark", "\ufeff{}", "the body is not JSON: byte 0: a value is expected"},
		{"a word", `{"a":tru}`, "the body is not JSON: byte 5: a value is expected"},
		{"NaN", `{"a":NaN}`, "the body is not JSON: byte 5: a value is expected"},
		{"a comment", `{/**/}`, "the body is not JSON: byte 1: a member's name in double quotes is expected"},
		{"single quotes", `{'a':1}`, "the body is not JSON: byte 1: a member's name in double quotes is expected"},
		{"a comma at the end", `{"a":1,}`, "the body is not JSON: byte 7: a member's name in double quotes is expected"},
		{"a comma at the end of a list", `[1,]`, "the body is not JSON: byte 3: a value is expected"},
		{"no comma", `[1 2]`, `the body is not JSON: byte 3: a comma or "]" is expected`},
		{"no colon", `{"a" 1}`, "the body is not JSON: byte 5: a colon is expected"},
		{"cut in an object", `{"a":1`, "the body is not JSON: byte 6: it ends within a list or an object"},
		{"cut behind a colon", `{"a":`, "the body is not JSON: byte 5: it ends where a value is expected"},
		{"cut in a string", `{"a`, "the body is not JSON: byte 3: it ends within a string"},
		{"cut in an escape", `"\`, "the body is not JSON: byte 1: it ends within a string"},
		{"a bad escape", `"\x"`, "the body is not JSON: byte 1: this escape is not known"},
		{"a bad number escape", `"\u12g4"`, `the body is not JSON: byte 1: four hexadecimal digits are expected behind \u`},
		{"a short number escape", `"\u12"`, `the body is not JSON: byte 1: four hexadecimal digits are expected behind \u`},
		{"a line end in a string", "\"a\nb\"", "the body is not JSON: byte 2: a control character within a string must be escaped"},
		{"a plus", `[+1]`, "the body is not JSON: byte 1: a value is expected"},
		{"a zero in front", `[01]`, `the body is not JSON: byte 2: a comma or "]" is expected`},
		{"a minus alone", `[-]`, "the body is not JSON: byte 2: a digit is expected"},
		{"a point at the end", `[1.]`, "the body is not JSON: byte 3: a digit is expected"},
		{"an exponent without digits", `[1e+]`, "the body is not JSON: byte 4: a digit is expected"},
		{"two values", `{} {}`, "the body is not JSON: byte 3: there is more behind the JSON value"},
		{"too deep", nested(wire.MaxDepth + 1), "the body is nested deeper than the 128 levels that are accepted"},
		{"too many", "[" + strings.Repeat("0,", wire.MaxValues) + "0]", "the body holds more than the 250000 values that are accepted"},
		{"a member twice", `{"b":[0,{"a":1,"c":2,"a":3}]}`, "b.1.a: is given twice"},
		{"a member twice, escaped", `{"a":1,"\u0061":3}`, "a: is given twice"},
		{"a member twice among many", `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1,"q":1,"a":1}`, "a: is given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := wire.Parse([]byte(tt.body)).Err()
			if !croft.IsType(err, croft.InvalidRequest) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if err := wire.Parse([]byte(nested(wire.MaxDepth))).Err(); err != nil {
		t.Errorf("%d levels: %v", wire.MaxDepth, err)
	}
	if err := wire.Parse(make([]byte, croft.MaxBody+1)).Err(); !croft.IsType(err, croft.TooLarge) {
		t.Errorf("a large body: %v", err)
	}
}

// TestReaders gives each reader what it takes and what it does not.
func TestReaders(t *testing.T) {
	const body = `{"s":"a\u00e9\ud83d\ude00","empty":"","blank":" \n","nul":"a\u0000","half":"\ud83d!","n":7,"f":0.5,"big":1e99,
		"b":true,"l":[1,2,3],"o":{"name":"x","k\"ey":1},"z":null,"m":{"":1},"e":{},"el":[]}`
	fails := []struct {
		want string
		read func(o wire.Value)
	}{
		{"s: accepted is text of at most 2 characters; this has 3", func(o wire.Value) { o.Get("s").Text(0, 2) }},
		{"empty: accepted is text of 1 to 9 characters; this has 0", func(o wire.Value) { o.Get("empty").Text(1, 9) }},
		{"empty: accepted is text of at least 1 character; this has 0", func(o wire.Value) { o.Get("empty").Text(1, -1) }},
		{"s: accepted is text of 5 characters; this has 3", func(o wire.Value) { o.Get("s").Text(5, 5) }},
		{"n: accepted is text of 1 to 9 characters", func(o wire.Value) { o.Get("n").Text(1, 9) }},
		{"n: accepted is text", func(o wire.Value) { o.Get("n").Text(0, -1) }},
		{"gone: is required: accepted is text of 1 to 9 characters", func(o wire.Value) { o.Get("gone").Text(1, 9) }},
		{"o.gone: is required: accepted is text", func(o wire.Value) { o.Get("o").Get("gone").Text(0, -1) }},
		{"nul: accepted is text without the character U+0000", func(o wire.Value) { o.Get("nul").Text(1, 9) }},
		{"z: accepted is text", func(o wire.Value) { o.Get("z").Text(0, -1) }},
		{"n: accepted is a whole number from 1 to 6", func(o wire.Value) { o.Get("n").Int(1, 6) }},
		{"f: accepted is a whole number from 0 to 6", func(o wire.Value) { o.Get("f").Int(0, 6) }},
		{"big: accepted is a whole number from 0 to 6", func(o wire.Value) { o.Get("big").Int(0, 6) }},
		{"big: accepted is a number from 0.5 to 6", func(o wire.Value) { o.Get("big").Float(0.5, 6) }},
		{"s: accepted is true or false", func(o wire.Value) { o.Get("s").Bool() }},
		{`s: accepted is "a", "b" or "c"`, func(o wire.Value) { o.Get("s").OneOf("a", "b", "c") }},
		{`s: accepted is "a"`, func(o wire.Value) { o.Get("s").OneOf("a") }},
		{"l: accepted is a list of at most 2 elements; this has 3", func(o wire.Value) { o.Get("l").Len(0, 2) }},
		{"l.1: accepted is text", func(o wire.Value) {
			for i, e := range o.Get("l").List(1, 9) {
				if i == 1 {
					e.Text(0, -1)
				}
			}
		}},
		{"n: accepted is a list of 1 to 2 elements", func(o wire.Value) { o.Get("n").Len(1, 2) }},
		{"n: accepted is an object", func(o wire.Value) { o.Get("n").Object("a") }},
		{"gone: is required: accepted is an object", func(o wire.Value) { o.Get("gone").AnyObject() }},
		{"o.name: is not known; was nam meant? Accepted are id, nam", func(o wire.Value) { o.Get("o").Object("nam", "id") }},
		{`o."k\"ey": is not known; was key meant? Accepted are key, name`, func(o wire.Value) { o.Get("o").Object("name", "key") }},
		{`o."k\"ey": is not known: Accepted are id, name`, func(o wire.Value) { o.Get("o").Object("name", "id") }},
		{"o.name: is not known: accepted is an object without members", func(o wire.Value) { wire.Additions(o.Get("o")) }},
		{`m."": accepted is a key of 1 to 64 characters; this has 0`, func(o wire.Value) { wire.Metadata(o.Get("m")) }},
		{"o: accepted are at most 1 pairs; this has 2", func(o wire.Value) {
			for range o.Get("o").Members(1) {
				t.Error("a member was read")
			}
		}},
		{"n: image is not served by this version of Croft", func(o wire.Value) { o.Get("n").NotServed("image") }},
		{"n: is not served by this version of Croft", func(o wire.Value) { o.Get("n").NotServed("") }},
		{"n: why", func(o wire.Value) { o.Get("n").FailWith(errors.New("why")) }},
		{"p: why", func(o wire.Value) { o.Get("n").FailWith(croft.Invalid("p", "why")) }},
		{"n: first", func(o wire.Value) { o.Get("n").Fail("first"); o.Get("s").Fail("second") }},
	}
	for _, f := range fails {
		d := wire.Parse([]byte(body))
		f.read(d.Root())
		if err := d.Err(); err == nil || err.Error() != f.want {
			t.Errorf("got  %v\nwant %s", err, f.want)
		}
	}

	d := wire.Parse([]byte(body))
	o := d.Root()
	got := []any{o.Get("s").Text(3, 3), o.Get("half").Text(0, -1), o.Get("n").Int(7, 7), o.Get("f").Float(0, 1), o.Get("b").Bool(),
		o.Get("o").Get("name").OneOf("y", "x"), o.Get("l").Len(3, 3), o.Get("z").Present(), o.Get("z").Given(), o.Get("gone").Present(),
		o.Get("z").Empty(), o.Get("e").Empty(), o.Get("el").Empty(), o.Get("empty").Empty(), o.Get("n").Empty(), o.Get("gone").Empty(),
		o.Get("blank").Blank(), o.Get("s").Blank(), o.Get("empty").Blank(), string(o.Get("l").Raw()), o.Get("z").TextOrNull(5) == nil,
		string(o.Get("o").Append(nil)), string(o.Get("half").Append(nil)), string(o.Get("gone").Append(nil)), wire.Value{}.Given()}
	want := []any{"aé😀", "\ufffd!", int64(7), 0.5, true, "x", 3, true, false, false, true, true, true, true, false, true,
		true, false, true, "[1,2,3]", true, `{"name":"x","k\"ey":1}`, `"` + "\ufffd" + `!"`, "null", false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := d.Err(); err != nil {
		t.Error(err)
	}
}

// TestAfterFault holds that nothing is read once a fault was noted.
func TestAfterFault(t *testing.T) {
	d := wire.Parse([]byte(`{"s":"x","n":1,"l":[1],"o":{"a":1},"b":true}`))
	o := d.Root()
	o.Get("s").Fail("first")
	for range o.Get("l").List(0, 9) {
		t.Error("a list was read")
	}
	if o.Get("s").Text(0, -1) != "" || o.Get("n").Int(0, 9) != 0 || o.Get("b").Bool() || o.Get("o").Get("a").Present() || o.Get("s").IsText() {
		t.Error("a value was read behind a fault")
	}
	if err := d.Err(); err.Error() != "s: first" {
		t.Errorf("got %v", err)
	}
}

func TestMetadata(t *testing.T) {
	d := wire.Parse([]byte(`{"a":"1","b":null,"c":""}`))
	one, none := "1", ""
	if diff := cmp.Diff(map[string]*string{"a": &one, "b": nil, "c": &none}, wire.MetadataPatch(d.Root())); diff != "" {
		t.Error(diff)
	}
	if m := wire.Metadata(d.Root().Get("gone")); m == nil || len(m) != 0 {
		t.Errorf("no metadata: %v", m)
	}
	wire.Metadata(d.Root())
	if err := d.Err(); err == nil || err.Error() != "b: accepted is text of at most 512 characters" {
		t.Errorf("null in new metadata: %v", err)
	}
}

type place struct {
	At int64  `json:"a,omitempty"`
	ID string `json:"i,omitempty"`
}

func TestCursor(t *testing.T) {
	want := place{At: 1234, ID: "sesn_x"}
	c := wire.WriteCursor("sessions", "desc", want)
	var got place
	if err := wire.ReadCursor(c, "sessions", "desc", &got); err != nil || got != want {
		t.Fatalf("got %v, %v", got, err)
	}
	const tail = ": accepted is next_page or prev_page of an earlier answer of this list, unchanged"
	for _, tt := range []struct{ name, cursor, list, order, want string }{
		{"another list", c, "agents", "desc", "page: is the cursor of another list" + tail},
		{"another order", c, "sessions", "asc", "page: the cursor was made with another order: accepted is the order of the request that it came from"},
		{"nothing", "", "sessions", "desc", "page: is no cursor" + tail},
		{"no base64", "???", "sessions", "desc", "page: is no cursor" + tail},
		{"cut", c[:len(c)-4], "sessions", "desc", "page: is no cursor" + tail},
		{"longer", c + "AAAA", "sessions", "desc", "page: is no cursor" + tail},
		{"long", strings.Repeat("A", 2000), "sessions", "desc", "page: is no cursor" + tail},
		{"another place", wire.WriteCursor("sessions", "desc", map[string]int{"x": 1}), "sessions", "desc", "page: is no cursor" + tail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := wire.ReadCursor(tt.cursor, tt.list, tt.order, new(place))
			if !croft.IsType(err, croft.InvalidRequest) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// FuzzParse holds that what is accepted is JSON, that its canonical form means the same, and
// that the canonical form is its own.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `"a\u00e9\ud83d\ude00"`, `{"a":[1,-0.5e+7,true,false,null,"x\n\"\\\/"],"b":{}}`, `"\ud83d"`,
		`"\ud83d\u0041"`, `{"a":1,"a":2}`, ` [ 1 , 2 ] `, "\"\u2028\x7f\"", `[[[[[]]]]]`, `{"events":[{"type":"user.message"}]}`, `"\u0000"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := wire.Parse(body)
		if d.Err() != nil {
			return
		}
		var want, got any
		if err := json.Unmarshal(body, &want); err != nil {
			if strings.Contains(err.Error(), "value out of range") || strings.Contains(err.Error(), "cannot unmarshal number") {
				return // a number that float64 cannot hold is JSON all the same
			}
			t.Fatalf("accepted %q: %v", body, err)
		}
		canonical := d.Root().Append(nil)
		if err := json.Unmarshal(canonical, &got); err != nil {
			t.Fatalf("the canonical form %q of %q: %v", canonical, body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the canonical form %q of %q: %s", canonical, body, diff)
		}
		again := wire.Parse(canonical)
		if err := again.Err(); err != nil || !bytes.Equal(again.Root().Append(nil), canonical) {
			t.Fatalf("the canonical form %q of %q is not its own: %v", canonical, body, err)
		}
		walk(d.Root(), 0)
	})
}

// walk visits every value.
func walk(v wire.Value, depth int) {
	_, _ = v.Blank(), v.Empty()
	switch {
	case depth > 4:
	case v.IsObject():
		for name, m := range v.Members(1 << 20) {
			_, _ = v.Get(name), m.Path()
			walk(m, depth+1)
		}
	case bytes.HasPrefix(v.Raw(), []byte("[")) && !v.IsText():
		for _, e := range v.List(0, 1<<20) {
			walk(e, depth+1)
		}
	}
}

// FuzzReadCursor holds that what is accepted is what WriteCursor makes.
func FuzzReadCursor(f *testing.F) {
	f.Add(wire.WriteCursor("l", "asc", place{At: 1}))
	f.Add(wire.WriteCursor("l", "asc", place{ID: "x"}))
	f.Add(wire.WriteCursor("m", "desc", place{}))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		var p place
		if err := wire.ReadCursor(text, "l", "asc", &p); err == nil && wire.WriteCursor("l", "asc", p) != text {
			t.Errorf("accepted %q", text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	long := `{"events":[{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"text","text":"` + strings.Repeat("0123456789", 10_000) + `"}]}]}`
	for _, bb := range []struct{ name, body string }{
		{"message", `{"events":[{"type":"user.message","content":[{"type":"text","text":"Say hello, then list the files in the working directory."}]}]}`},
		{"100kB", long},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := wire.Parse([]byte(bb.body)).Err(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
