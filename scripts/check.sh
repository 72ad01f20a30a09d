#!/bin/sh
# Checks everything that a change must pass.
#
#   scripts/check.sh          format, vet, staticcheck, build, all tests (race detector where affordable)
#   scripts/check.sh short    format, vet, build, the tests that take moments
set -eu

cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# plain are the packages whose tests compute so much that the race detector, ten times slower, is not
# affordable on every change: pure decisions, in which no two goroutines share anything, and whole
# clusters. A pattern for grep -E, matched against the import path.
plain='/internal/(ha|quorum|sim)($|/)|/test/'

# begin and step name what runs, so that a long log can be read.
began=$(date +%s)
step() {
	say ''
	say "== $* ($(($(date +%s) - began)) s)"
}

command -v go >/dev/null 2>&1 || die 'there is no go on PATH: install Go (https://go.dev/dl), or add its bin folder to PATH.'

mode=${1:-full}
case "$mode" in
full | short) ;;
*) die "unknown argument $mode: use none, or short" ;;
esac

step 'gofmt'
folders=
for d in cmd internal test; do
	[ -d "$d" ] && folders="$folders $d"
done
# shellcheck disable=SC2086 # a list of folders
unformatted=$(gofmt -l $folders)
[ -z "$unformatted" ] || die "these files are not formatted; run gofmt -w on them:
$unformatted"

if command -v shellcheck >/dev/null 2>&1; then
	step 'shellcheck'
	shellcheck -x scripts/*.sh .ci/run
fi

step 'go vet'
go vet ./...

step 'go build'
CGO_ENABLED=0 go build -buildvcs=false ./...

if [ "$mode" = short ]; then
	step 'go test -short'
	go test -short -vet=off ./...
	step 'passed'
	exit 0
fi

# From here on a failure does not hide the next one: each step takes minutes.
failed=
step 'staticcheck'
go tool staticcheck ./... || failed="$failed staticcheck"

# The time limits end what hangs; they measure nothing. Results are not taken from the cache, because
# many tests rest on PostgreSQL, of which the cache knows nothing.
all=$(go list ./...)
raced=$(say "$all" | grep -Ev "$plain" || true)
rest=$(say "$all" | grep -E "$plain" || true)
race=-race
scripts/ensure-filesystem.sh || say 'The tests of frozen storage are skipped.'
if ! scripts/ensure-compiler.sh; then
	say 'The tests run without the race detector.'
	race=
fi
if [ -n "$raced" ]; then
	step "go test $race, most packages"
	# shellcheck disable=SC2086 # lists of packages
	go test $race -vet=off -count=1 -timeout 15m $raced || failed="$failed tests"
fi
if [ -n "$rest" ]; then
	step 'go test, packages that compute much, one after the other'
	# Whole clusters under load want the processors to themselves.
	# shellcheck disable=SC2086
	CGO_ENABLED=0 go test -p 1 -vet=off -count=1 -timeout 30m $rest || failed="$failed tests"
fi
step "go test, a week's writes into the store, scaled"
CGO_ENABLED=0 go test -vet=off -count=1 -timeout 15m -run TestWeek ./internal/etcdserver || failed="$failed tests"
[ -z "$failed" ] || die "failed:$failed (tests: the lines above that begin with --- FAIL or FAIL say which)"
step 'passed'
