// Package shell keeps a shell alive between commands. It owns the shell's process and
// terminal, the way a command gets in and its output and exit code come out, interrupts,
// and, because the two cannot be told apart, every other child of the process. It may
// import the standard library and a pseudo-terminal package. Package hand, the one user,
// decides what runs and words what is said of it.
package shell
