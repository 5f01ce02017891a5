// Package console is the page that `orrery console` serves on loopback, under a name of its own:
// where everything runs and how it is, the dashboards, logs, traces and checks, live.
//
// Everything is rendered here, on the server; a page works without the script, which only
// keeps it fresh (server-sent events that replace fragments), shows values under the
// pointer and knows a few keys. Nothing is loaded from elsewhere. What the cluster said
// last is kept, so that the page goes on, and says so, while the cluster is away.
//
// It knows no driver and no kubeconfig: [Options] brings functions and an observe.API. It
// must never import a template or web framework. Start reading at server.go, then views.go.
package console
