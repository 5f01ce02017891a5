// Package unixhttp is the client's half of an API of JSON over HTTP at one address, usually a
// socket of this machine: the supervisor's, a container engine's. It imports nothing of this module.
package unixhttp
