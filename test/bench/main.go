package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideWord as the first argument says that the program is in the clients' namespace already.
const insideWord = "inside"

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == launchWord:
		err = launch(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == insideWord:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = inside(ctx, os.Args[2:])
	default:
		err = outside(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// outside makes the namespace of the clients, runs the program in it and cleans up, however that
// ended.
func outside(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if len(o.report) > 0 {
		return inside(context.Background(), args)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and power cuts need root: run it as root (sudo make bench-failover)")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("the program ip is missing: install iproute2 (scripts/ensure-bench.sh does)")
	}
	if _, _, err := freezerRoot(); err != nil {
		return err
	}
	lock, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock %s: %w", lockFile, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another run holds %s: wait for its end", lockFile)
	}
	if err := sweep(); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := makeClientNS(); err != nil {
		return errors.Join(err, sweep())
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command("nsenter", append([]string{"--net=" + filepath.Join(nsDir, clientNS), exe, insideWord}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, sweep())
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-signals:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("the run ended with %w", err)
			}
			return errors.Join(err, sweep())
		}
	}
}
