// Package jobline reads what the Job of a component prints about its checks: a line of JSON
// for each. What a container prints is foreign, so all of it has bounds, and what is shown to
// a person cannot move a cursor.
//
// It is pure, and imports only check. Start at [Lines.Take]; check/smoke runs the Jobs.
package jobline
