// Package k3d makes a cluster in containers with k3d (https://k3d.io), which the person has
// installed, and an engine that speaks Docker's API. It takes no root and no Linux: all that it does
// goes through the two.
//
// Nodes are of an image that is made here out of the node distribution, so that no registry is
// needed; what runs in it is in node. Start reading at driver.go, then config.go and image.go.
package k3d
