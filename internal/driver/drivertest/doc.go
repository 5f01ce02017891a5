// Package drivertest is what every driver must do, as a test: [Run] takes a real
// environment through its life, faults included. A driver's own test calls it.
//
// Start reading at suite.go.
package drivertest
