// Package layers is a containerd snapshotter: the overlay snapshotter, whose unpacked
// layers are shared between the nodes of one machine.
//
// All nodes see one read-only folder of layers, the store. Before a layer is unpacked, the
// snapshotter asks the store's keeper (the environment's supervisor, on a unix socket) for
// it. When it is there, the snapshot's "fs" is a symbolic link into the store, and
// containerd neither fetches nor unpacks the layer: a prepared snapshot whose mount is
// read-only counts as staged. Otherwise this node may be the one whose turn it is to unpack
// it: it does so as ever, in its own folder, and once containerd has verified the content
// it hands it over: the keeper moves it into the store and leaves a link in its place.
//
// Whatever goes wrong with sharing, the layer stays private to the node and works.
//
// Start reading at snapshotter.go; keeper.go is the conversation with the keeper.
package layers
