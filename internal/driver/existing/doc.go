// Package existing is the driver of clusters that somebody else made: kubeadm, Talos, EKS, GKE,
// kind, or another orrery. It makes and ends no machine. What it adds to such a cluster is
// nothing; what it keeps is a copy of the one context in its state folder, so that nothing
// depends on what the person's kubeconfig says later.
//
// It must know no component, and must never write to the person's kubeconfig. Unlike other
// drivers it may use internal/kube: the API is all that there is to look at. Start reading at
// driver.go; preflight.go says what is asked of a cluster before it is used.
package existing
