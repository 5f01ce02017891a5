// Package bundle carries a platform to a machine that has neither Go nor a network: one
// file, a tar of an OCI image layout, with every image and what is attached to it, the
// programs of the nodes, the catalogue and the lock, under one signature.
//
// It packs, unpacks and compares; what goes in and whom to trust is for internal/app to
// say. It must not import internal/kube, internal/engine or internal/driver, and it runs no
// program.
//
// Start reading at format.go, which says what is where in the file. create.go writes one,
// open.go reads its index, import.go and unpack.go unpack it, store.go gives out what was
// unpacked.
package bundle
