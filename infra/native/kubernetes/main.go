// Command kubernetes is every Kubernetes and etcd program of a node in one binary.
//
// Which program it is follows from the name that it was started by, as with busybox:
// the node distribution links kubelet, kube-apiserver, etcd and the rest to it. Started
// by any other name, the first argument is the program:
//
//	kubernetes kubelet --config …
//
// One binary instead of seven halves the disk a node needs and is linked once, which is
// the most expensive step of a cold build. The programs themselves are upstream's own
// commands, unchanged; two packages beside this one make them start with less CPU time.
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // CronJobs name time zones, and nodes have no zoneinfo of their own

	_ "github.com/orrery-dev/orrery/infra/native/kubernetes/english"
	_ "github.com/orrery-dev/orrery/infra/native/kubernetes/startup"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's credential plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs maps a name to a main function that takes its arguments from os.Args, since
// that is where all of them look, and returns the exit code.
var programs = map[string]func() int{
	"etcd":                    runEtcd,
	"kube-apiserver":          daemon(apiserver.NewAPIServerCommand),
	"kube-controller-manager": daemon(controllermanager.NewControllerManagerCommand),
	"kube-proxy":              daemon(proxy.NewProxyCommand),
	"kube-scheduler":          daemon(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 runKubectl,
	"kubelet":                 daemon(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func main() {
	program, argv, ok := selectProgram(os.Args)
	if !ok {
		usage(os.Stderr)
		os.Exit(2)
	}
	os.Args = argv
	os.Exit(program())
}

// selectProgram finds the program that argv asks for, by its own name or by its first
// argument, and returns it with the arguments that the program should see.
func selectProgram(argv []string) (func() int, []string, bool) {
	if len(argv) == 0 {
		return nil, nil, false
	}
	name := filepath.Base(argv[0])
	if program, ok := programs[name]; ok {
		return program, append([]string{name}, argv[1:]...), true
	}
	if len(argv) > 1 {
		if program, ok := programs[argv[1]]; ok {
			return program, argv[1:], true
		}
	}
	return nil, nil, false
}

func usage(w io.Writer) {
	fmt.Fprintf(w, "usage: kubernetes PROGRAM [ARGUMENT...]\n\nprograms: %s\n",
		strings.Join(slices.Sorted(maps.Keys(programs)), ", "))
}

// daemon builds the command only when it is the one asked for: each registers flags and
// feature gates in globals, which the others must not see.
func daemon(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

func runEtcd() int {
	etcdmain.Main(os.Args) // exits by itself on errors
	return 0
}

func runKubectl() int {
	// kubectl's default command writes klog before its flags are parsed, so the verbosity
	// is taken from the arguments beforehand.
	if _, err := logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err) // prints in kubectl's own form and exits with its code
	}
	return 0
}
