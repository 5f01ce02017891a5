// Package clangcache lets the nodes of all environments of a machine share what they compile.
// Cilium's agent compiles its datapath on every node, at every start: about a dozen calls of
// clang with nearly the same input. A program in front of clang ([Main]) answers those that
// were made before from a folder that all nodes see.
//
// What differs from node to node are a few numbers in node_config.h, such as the node's
// address. In the object that is kept they are variables in the section that Cilium's own
// run-time configuration is in, and are filled in for each node (param.go).
//
// Correctness comes first: what is asked for in another way than the agent does, what cannot
// be read, what does not compile, is left to clang with the arguments as they came. A key
// covers all of the input (scan.go): every file that an #include may mean, the arguments, the
// compiler. An entry carries its own digest.
//
// It imports nothing but the standard library: programs of nodes are pinned by what they
// import.
package clangcache
