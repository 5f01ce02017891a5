// Package suite pins Kubernetes' own end-to-end tests and the programs of the images that
// they run, see ../doc.go. It is a module of its own: nothing else is to depend on what
// they need.
package suite

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo/command"
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/kubernetes/test/e2e"
)
