package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The major versions that this package speaks.
const (
	MinMajor = 13
	MaxMajor = 18
)

var versionRE = regexp.MustCompile(`^(?:postgres|pg_[a-z]+|initdb|psql) \([^)]*\) (\d+)(?:\.(\d+)|devel|beta\d+|rc\d+)?`)

// Version of PostgreSQL's programs: 15.18 is {15, 18}. A version before its release has Minor 0.
type Version struct{ Major, Minor int }

// String is the usual form.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Num is the form of server_version_num: 150018.
func (v Version) Num() int { return v.Major*10000 + v.Minor }

// ParseVersion reads what "postgres --version" prints.
func ParseVersion(output string) (Version, error) {
	m := versionRE.FindStringSubmatch(strings.TrimSpace(output))
	if m == nil {
		return Version{}, fmt.Errorf("parse PostgreSQL version: got %.80q, want something like \"postgres (PostgreSQL) 15.4\"", output)
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return Version{}, fmt.Errorf("parse PostgreSQL version: %w", err)
	}
	minor := 0
	if m[2] != "" {
		if minor, err = strconv.Atoi(m[2]); err != nil {
			return Version{}, fmt.Errorf("parse PostgreSQL version: %w", err)
		}
	}
	return Version{major, minor}, nil
}

// Version asks the installed server program.
func (s *Server) Version(ctx context.Context) (Version, error) {
	out, err := s.output(ctx, "postgres", "--version")
	if err != nil {
		return Version{}, err
	}
	return ParseVersion(out)
}

// BinDir is where PostgreSQL's programs are: as configured, else as FindBinDir finds them for the
// data directory.
func (s *Server) BinDir() (string, error) {
	if s.cfg.BinDir != "" {
		return s.cfg.BinDir, nil
	}
	major, _ := s.DataMajor()
	return FindBinDir(major)
}

// DataMajor is the major version of the data directory, from its file PG_VERSION.
func (s *Server) DataMajor() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("read the version of the data directory: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("read the version of the data directory: %s holds %.20q, want a number", filepath.Join(s.cfg.DataDir, "PG_VERSION"), b)
	}
	return n, nil
}

// installRoots are where packages put one directory per major version.
var installRoots = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/postgresql/*/bin"}

// FindBinDir finds PostgreSQL's programs of a major version, 0 for the newest that is supported:
// in the directories of Debian's and PGDG's packages, else on PATH.
func FindBinDir(major int) (string, error) {
	type found struct {
		dir   string
		major int
	}
	var all []found
	for _, root := range installRoots {
		dirs, _ := filepath.Glob(root)
		for _, dir := range dirs {
			name := strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "pgsql-")
			n, err := strconv.Atoi(name)
			if err != nil || !executable(filepath.Join(dir, "postgres")) {
				continue
			}
			all = append(all, found{dir, n})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return b.major - a.major })
	for _, f := range all {
		if f.major == major || major == 0 && f.major >= MinMajor && f.major <= MaxMajor {
			return f.dir, nil
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(real), nil
		}
	}
	want := fmt.Sprintf("%d to %d", MinMajor, MaxMajor)
	if major != 0 {
		want = strconv.Itoa(major)
	}
	return "", fmt.Errorf("find PostgreSQL %s: no server program under /usr/lib/postgresql or on PATH: install the package postgresql, or set postgresql.bin_dir", want)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
