package app

import "io"

// Main runs one invocation and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int { return 0 }
