// Package vm takes a platform through the life of a whole machine: a Debian 12 with systemd and pure
// control groups v2, in User-mode Linux. It is installed from a bundle without any network, shut down
// and booted again, loses its power in the middle of acknowledged writes, and is removed; then the
// machine must be what it was before. What nodes share with their host is seen from there as nowhere
// else: its init, its control groups and its kernel modules are nobody else's.
//
// A User-mode Linux is one process: killing it is a power cut, and its disk is a file. It needs no
// KVM. It has no cpuset and one processor, and a fork takes it 18 ms, so things take minutes:
//
//	apt-get install debootstrap user-mode-linux
//	ORRERY_VM=1 go test -count=1 -timeout 2h -v ./test/vm
//	ORRERY_VM=1 go test -count=1 -v -run 'Interrupted|PowerCut' ./test/vm    # six minutes: no pods
//
// TestMachine, the long one, needs a machine that does little else: with a single slow processor the
// scheduler and the controller manager lose their leases and begin again. On two busy cores it has not
// come to its end yet.
//
// It needs root and, for the first run, Debian's mirror (ORRERY_VM_MIRROR, default
// http://deb.debian.org/debian). ORRERY_VM_DIR (default /var/tmp/orrery-vm) keeps Debian's root
// from one run to the next; the disk and the console of a machine that failed stay there too:
// debugfs reads the disk.
//
// Start reading at vm_test.go.
package vm
