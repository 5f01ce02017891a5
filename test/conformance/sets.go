package main

import (
	"maps"
	"slices"
)

// sets are choices of cases, as regular expressions for names.
var sets = map[string]string{
	// What a conformant cluster's network must do.
	"network": `\[sig-network\].*\[Conformance\]`,
	// NetworkPolicy: its rules and its API.
	"netpol": `\[sig-network\].*(Netpol|NetworkPolicy)`,
	// All of the network's, also what is not asked of every cluster.
	"sig-network": `\[sig-network\]`,
	// All that a conformant cluster must do.
	"conformance": `\[Conformance\]`,
	// One of each kind of traffic, a few minutes.
	"short": `\[sig-network\].*(` +
		`should provide DNS for services \[Conformance\]|` +
		`should provide DNS for pods for Subdomain|` +
		`intra-pod communication: (http|udp) \[|` +
		`node-pod communication: (http|udp) \[|` +
		`should serve a basic endpoint from pods|` +
		`should serve multiport endpoints from pods|` +
		`should create a functioning NodePort service|` +
		`be able to create a functioning NodePort service|` +
		`should have session affinity work for (NodePort service|service with type clusterIP) \[|` +
		`no conflict between pods with same hostPort|` +
		`should proxy through a service and a pod)`,
}

func setNames() []string { return sortedKeys(sets) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
