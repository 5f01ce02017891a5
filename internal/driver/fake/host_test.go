package fake

import (
	"errors"
	"net"
	"testing"
)

// A port that is taken for a moment is waited for; what else is wrong is said at once.
func TestPortIsTakenForAMoment(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	err = whenFree(func() error {
		if tries++; tries == 3 {
			taken.Close()
		}
		l, err := net.Listen("tcp", taken.Addr().String())
		if err == nil {
			err = l.Close()
		}
		return err
	})
	if err != nil || tries < 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	wrong := errors.New("wrong")
	if err := whenFree(func() error { tries = -1; return wrong }); !errors.Is(err, wrong) || tries != -1 {
		t.Errorf("got %v", err)
	}
}
