// Package driver says what a driver is: something that makes a Kubernetes API.
// A driver knows no component, and a component knows no driver.
//
// The implementations are in native/ (and later k3d/, existing/); every one of them
// passes drivertest. Start reading at driver.go.
package driver
