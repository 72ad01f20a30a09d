package config_test

import (
	"flag"
	"os"
	"testing"

	"github.com/hathi-ha/hathi/internal/config"
)

var updateFlag = flag.Bool("update", false, "write docs/CONFIGURATION.md anew")

// The page in docs is the one that the field comments make: go test ./internal/config -update
func TestReference_IsThePageInDocs(t *testing.T) {
	const page = "../../docs/CONFIGURATION.md"
	want := config.Reference()
	if *updateFlag {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got a %s that differs from what the field comments say; want it made anew: go test ./internal/config -run TestReference -update", page)
	}
}
