// Command hathi runs and operates highly available PostgreSQL.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hathi-ha/hathi/internal/cli"
)

// version is set by the build.
var version = "development"

func main() {
	app, err := cli.NewApp(version)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hathi:", err)
		os.Exit(1)
	}
	os.Exit(app.Main(context.Background(), os.Args[1:]))
}
