//go:build linux

package local

func attemptsHere() []attempt { return nil }

func callI386() {}
