// Package docs holds the project's pages and the test that keeps them true: every shell
// command that a page marks as runnable is run, every relative link must lead to a file, and
// the tables that list settings, routes, modules and fuzz targets are compared with the code.
// It has no code of its own; nothing imports it.
//
// A block fenced as ```sh is run by sh -eu with an empty home, the built croft first on the
// PATH, and the repository as the working folder; it must leave no process behind. Blocks
// fenced as ```console, or without a word, are for reading: they need a key, a model server,
// a terminal or much time.
package docs
