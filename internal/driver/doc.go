// Package driver says what a driver is: something that makes a Kubernetes API.
// A driver knows no component, and a component knows no driver.
//
// The implementations are in native/, existing/ and k3d/; every one of them
// passes drivertest, as far as its capabilities go. Start reading at driver.go.
package driver
