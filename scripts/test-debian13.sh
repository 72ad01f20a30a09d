#!/bin/sh
# Runs the tests that need PostgreSQL on Debian 13's PostgreSQL 17, in a root file system of its own:
# the machine keeps the PostgreSQL it has, and no cluster or service is made or started beside the tests.
# As root, on Linux with apt-get.
#
#   scripts/test-debian13.sh                      all packages whose tests look for PostgreSQL
#   scripts/test-debian13.sh internal/router      only these
#
#   ROOT=DIR    where the root file system is, made when it is not there (default /var/cache/hathi/debian13)
#   MIRROR=URL  where Debian's packages come from (default: where this machine has them from)
#   RUN=REGEXP  only these tests, as in go test -run
#
# The test programs are built here and run there, in namespaces of their own for mounts and processes: when
# this script ends, whatever ends it, all that it mounted and started is gone.
set -eu

cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

release=trixie major=17
ROOT=${ROOT:-/var/cache/hathi/debian13}
built=bin/debian13  # below the checkout: the programs and what they print
checkout=/srv/hathi # where the checkout is seen, read-only, in the root file system
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apart runs this script once more, with $1 as its phase, in namespaces of its own. In the background and
# waited for, so that a signal is answered at once. The end of this shell ends unshare, which ends the
# first process of the namespace, with which the kernel ends all others.
apart() {
	setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child \
		scripts/test-debian13.sh "$@" </dev/null &
	wait "$!"
}

# furnish mounts into the root file system at $1 what programs expect of a running system.
furnish() {
	mount -t proc proc "$1/proc"
	mount --rbind /sys "$1/sys"
	mount --rbind /dev "$1/dev"
	mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
}

# within DIR COMMAND... runs a command in the root file system at DIR, with none of this machine's
# variables, nor the signals that a shell has its background jobs ignore.
within() {
	dir=$1
	shift
	chroot "$dir" /usr/bin/env -i --default-signal PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LANG=C.UTF-8 TMPDIR=/tmp DEBIAN_FRONTEND=noninteractive "$@"
}

# make_root makes the root file system at $1 from the mirror $2.
make_root() {
	debootstrap --variant=minbase --include=ca-certificates --keyring="$keyring" "$release" "$1" "$2" ||
		die "debootstrap could not make Debian 13 in $1 from $2; its messages are above, and more may be in $1/debootstrap/debootstrap.log."
	# How apt reaches the mirror is this machine's affair: proxies, time limits, what it trusts.
	(umask 077 && apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' >"$1/etc/apt/apt.conf.d/90host") || true
	cp /etc/hosts /etc/resolv.conf "$1/etc/"
	printf 'deb %s %s main\n' "$2" "$release" >"$1/etc/apt/sources.list"
	printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" # nothing is started here
	chmod 755 "$1/usr/sbin/policy-rc.d"
	mkdir -p "$1/etc/postgresql-common/createcluster.d" "$1$checkout"
	say 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.d/hathi.conf"
	furnish "$1"
	within "$1" apt-get -q update
	# A test of frozen storage makes a file system of its own, with e2fsprogs.
	within "$1" apt-get -q install -y --no-install-recommends "postgresql-$major" e2fsprogs ||
		die "apt-get could not install postgresql-$major in $1; its messages are above."
	within "$1" apt-get clean
}

# run_tests runs the test programs of the packages given and says how they ended.
run_tests() {
	furnish "$ROOT"
	mount --bind . "$ROOT$checkout"
	mount -o remount,bind,ro "$ROOT$checkout"
	find "$ROOT/tmp" -mindepth 1 -delete # what a run that was killed left
	say "On $(within "$ROOT" "/usr/lib/postgresql/$major/bin/postgres" --version), Debian $(cat "$ROOT/etc/debian_version"):"
	passed=0 failed='' skipped=0
	for package; do
		name=$(program "$package")
		log=$built/$name.log
		began=$(date +%s)
		result=ok
		# shellcheck disable=SC2016 # for the shell inside
		within "$ROOT" HATHI_E2E_PROGRAM="$checkout/$built/hathi" sh -c 'cd "$1" && shift && exec "$@"' sh "$checkout/$package" \
			"$checkout/$built/$name.test" -test.v -test.timeout=30m ${RUN:+"-test.run=$RUN"} >"$log" 2>&1 || result=FAIL
		took=$(($(date +%s) - began))
		p=$(count PASS "$log") f=$(count FAIL "$log") s=$(count SKIP "$log")
		say "$result	$package	$took s: $p passed, $f failed, $s skipped"
		grep -B 1 -E '^ *--- SKIP' "$log" || true # the reason is before it
		passed=$((passed + p)) skipped=$((skipped + s))
		if [ "$result" = FAIL ]; then
			failed="$failed $package"
			grep -B 15 -E '^ *--- FAIL' "$log" || tail -n 30 "$log"
			say "All that it printed is in $log."
		fi
	done
	[ -z "$failed" ] || die "failed on PostgreSQL $major:$failed"
	# Nothing failed where nothing ran, either.
	[ "$passed" -gt 0 ] || die "no test ran on PostgreSQL $major ($skipped skipped)."
	say "Passed on PostgreSQL $major: $passed tests and parts of tests, $skipped skipped."
}

# program is the name of a package's test program.
program() { say "$1" | tr / -; }

# count tells how many tests, and parts of tests, ended as $1 in the output $2.
count() { grep -c -E "^ *--- $1" "$2" || true; }

case "${1:-}" in
--make-root)
	shift
	make_root "$@"
	exit
	;;
--run-tests)
	shift
	run_tests "$@"
	exit
	;;
-*) die "unknown option $1: name packages, or none for all" ;;
esac

[ "$(id -u)" -eq 0 ] || die 'a root file system is made and entered here, which takes root: run this as root.'
for c in go setpriv unshare flock chroot apt-config; do
	command -v "$c" >/dev/null 2>&1 || die "there is no $c on PATH, and this needs it."
done
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

mkdir -p "$(dirname "$ROOT")"
exec 9>"$ROOT.lock"
flock -n 9 || die "another run uses $ROOT: wait for its end, or set ROOT to another directory."

if [ ! -d "$ROOT" ]; then
	missing=
	command -v debootstrap >/dev/null 2>&1 || missing="$missing debootstrap"
	[ -e "$keyring" ] || missing="$missing debian-archive-keyring"
	if [ -n "$missing" ]; then
		may_install || die "to make a root file system$missing is needed, which cannot be installed from here: $WHY_NOT."
		say "Installing to make a root file system:$missing."
		# shellcheck disable=SC2086 # one word per package
		install_packages $missing || die 'apt-get could not install that; its messages are above.'
	fi
	# shellcheck disable=SC2016 # the words are apt-get's
	: "${MIRROR:=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)}"
	[ -n "$MIRROR" ] || die "apt knows no mirror of Debian on this machine: name one with MIRROR=http://..., or run apt-get update."
	for scheme in http https; do # debootstrap asks the environment
		eval "p=\${${scheme}_proxy:-}"
		[ -n "$p" ] || eval "$(apt-config shell p "Acquire::$scheme::Proxy")"
		case "$p" in '' | DIRECT) ;; *) export "${scheme}_proxy=$p" ;; esac
	done
	say "Making Debian 13 with PostgreSQL $major in $ROOT. It stays, for the next run."
	rm -rf --one-file-system "$ROOT.partial"
	apart --make-root "$ROOT.partial" "$MIRROR" || die "$ROOT was not made; the messages above say why."
	mv "$ROOT.partial" "$ROOT"
fi
[ -x "$ROOT/usr/lib/postgresql/$major/bin/postgres" ] ||
	die "$ROOT is there and has no PostgreSQL $major: remove it, or set ROOT to another directory."

# The packages whose tests look for PostgreSQL are those that speak of where it is.
[ $# -gt 0 ] || eval "set -- $(grep -rlE --include='*_test.go' 'FindBinDir|/usr/lib/postgresql' internal test |
	sed 's|/[^/]*$||' | sort -u | tr '\n' ' ')"
mkdir -p "$built"
say "Building the test programs of $*."
CGO_ENABLED=0 go build -buildvcs=false -o "$built/hathi" ./cmd/hathi
for package; do
	CGO_ENABLED=0 go test -c -vet=off -o "$built/$(program "$package").test" "./$package"
done
export ROOT RUN="${RUN:-}"
apart --run-tests "$@"
