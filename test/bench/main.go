package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

type options struct {
	cold, idle bool
	only       string
	against    string
	components string
	env        string
	runs       int
	output     string
	dir        string
	settle     time.Duration
	window     time.Duration
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == netload {
		if err := netloadMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench netload:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.BoolVar(&o.cold, "cold", false, "also build everything with an empty cache")
	flag.BoolVar(&o.idle, "idle", true, "also measure idle memory and CPU, and what one more agent costs")
	flag.StringVar(&o.only, "only", "", "one part of the warm figures: cluster, platform, network, images or bundle")
	flag.StringVar(&o.against, "against", "", "revision that up, up again and down are held against, run in turns; nothing else is measured")
	flag.StringVar(&o.components, "components", "", "with -against: components to bring up, separated by commas (default: all)")
	flag.StringVar(&o.env, "env", "bench", "name of the environment")
	flag.IntVar(&o.runs, "runs", 3, "runs of each timed figure, of which the median is shown; 0 leaves those out")
	flag.StringVar(&o.output, "o", "text", "text or json")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "folder on a disk for the environments' state")
	flag.DurationVar(&o.settle, "settle", 2*time.Minute, "idle time before the window of the idle figures")
	flag.DurationVar(&o.window, "window", time.Minute, "window over which idle cores are averaged")
	flag.Parse()
	if flag.NArg() > 0 || o.runs < 0 || (o.output != "text" && o.output != "json") ||
		!slices.Contains([]string{"", "cluster", "platform", "network", "images", "bundle"}, o.only) {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the native driver needs root")
	}
	dir, err := os.MkdirTemp(o.dir, "orrery-bench-")
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, progress: progress}
	defer func() { err = errors.Join(err, b.cleanUp(), os.RemoveAll(dir)) }()
	if b.repo, err = root(ctx); err != nil {
		return err
	}
	if b.cli, err = compile(ctx, b.repo, dir); err != nil {
		return err
	}
	r := report{Machine: lookAtMachine(ctx)}
	if o.output == "text" {
		if err := r.Machine.print(out); err != nil {
			return err
		}
	}
	// What was measured before a failure took minutes: it is shown too.
	err = b.measure(ctx, &r)
	if o.output == "json" {
		return errors.Join(err, r.json(out))
	}
	return errors.Join(err, r.print(out))
}

// root is the folder of the main module.
func root(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Dir(string(mod)), nil
}

func compile(ctx context.Context, repo, dir string) (string, error) {
	cli := filepath.Join(dir, "orrery")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", cli, "./cmd/orrery")
	cmd.Dir = repo
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build orrery: %w\n%s", err, msg)
	}
	return cli, nil
}
