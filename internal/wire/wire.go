// Package wire reads what clients send: JSON bodies, value by value and with paths, and the
// cursors of lists. It imports the language alone; the rooms that define what a field means
// (agents, session) call it.
//
// A body never reaches a struct unchecked. Parse makes a Doc of it in one pass: UTF-8, no
// member twice, bounded in depth and in the number of values. A Value is a place in the
// Doc; its methods read it and say what would be accepted:
//
//	d := wire.Parse(body)
//	o := d.Root().Object("name", "metadata", "croft")   // other members are refused by name
//	name := o.Get("name").Text(1, 256)
//	meta := wire.Metadata(o.Get("metadata"))
//	return d.Err()
//
// The first fault is kept in the Doc, with its path, and every reader after it returns the
// zero value: code that reads goes straight on and asks Err once, before it acts. Absent
// (not Present), null (not Given) and a value are three things. Messages never repeat a
// value: it could be a secret in the wrong place.
//
// What is kept of a body is written anew by Append in one canonical form, so that a log
// holds no byte that a model's server would choke on.
package wire
