// Command hathi runs and operates highly available PostgreSQL.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/hathi-ha/hathi/internal/cli"
)

// version is set by the build.
var version = "development"

func main() {
	// Nobody asks these processes for a profile of allocations, which a linked package makes the runtime
	// keep.
	runtime.MemProfileRate = 0
	app, err := cli.NewApp(version)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hathi:", err)
		os.Exit(1)
	}
	os.Exit(app.Main(context.Background(), os.Args[1:]))
}
