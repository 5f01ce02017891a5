// Package absent makes a program cheaper to compile by leaving out modules that it links and,
// on this platform, never calls: the SDKs of the clouds that it could store its data in, say.
// For each it writes a stand-in: a module with the declarations that the program was written
// against and nothing behind them. A function that returns an error returns one that says "left
// out of this build", any other panics with the same words. The program itself is not changed.
//
// What a stand-in holds follows from the modules that go.mod and go.sum pin, from a list of what
// is left out ([Parse]) and from this package, so it is made when the program is compiled
// (internal/build) and kept nowhere. The same input gives the same bytes. The declarations are
// read from the real modules, in Go's module cache or from its proxy: nothing of them is compiled.
//
// It imports nothing but the standard library: it is a program of its own (the folder generate),
// compiled by the Go that compiles what it writes, whose types it has to understand.
//
// Start reading at make.go; load.go reads the program, use.go finds out what it needs, write.go
// writes that.
package absent
