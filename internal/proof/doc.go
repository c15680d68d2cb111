// Package proof holds the tests that drive the built program from outside, as its users do:
// the official SDK against a server process, workers in processes of their own, and kills.
// It has no code of its own; nothing imports it.
package proof
