// Package sampleapiserver pins the API server that a case of the suite adds to the cluster's,
// at a version of its own: see ../images.yaml.
package sampleapiserver

import _ "k8s.io/sample-apiserver/pkg/apiserver"
