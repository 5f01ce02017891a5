// Package vm takes a platform through the life of a whole machine: a Debian 12 with its own kernel,
// systemd, AppArmor and pure control groups v2, in qemu. It is installed from a bundle without any network,
// shut down and booted again, loses its power in the middle of acknowledged writes, and is removed; then the
// machine must be what it was before. What nodes share with their host is seen from there as nowhere
// else: its init, its control groups and its kernel modules are nobody else's.
//
// No KVM is needed: the processor is an emulated one whose instructions are the machine's clock (qemu's
// -icount). Deadlines in there are as far away as on a machine of its speed, however long that takes here.
// Killing the process is a power cut, and its disk is a file.
//
//	apt-get install debootstrap qemu-system-x86
//	ORRERY_VM=1 go test -count=1 -timeout 5h -v ./test/vm
//	ORRERY_VM=1 go test -count=1 -timeout 1h -v -run 'Interrupted|PowerCut' ./test/vm    # no pods
//
// One processor has to be free for it. On a busy machine, once it has booted: chrt -a -f -p 1 $(pgrep qemu-system)
//
// It needs root and, for the first run, Debian's mirror (ORRERY_VM_MIRROR, default
// http://deb.debian.org/debian). ORRERY_VM_DIR (default /var/tmp/orrery-vm) keeps Debian's root
// from one run to the next; the disk and the console of a machine that failed stay there too:
// debugfs reads the disk.
//
// Start reading at vm_test.go.
package vm
