#!/bin/sh
# Makes sure that PostgreSQL's server and client programs are on this machine, by installing the
# distribution's package if need be. It says what it does. Nothing is started: the package would
# create and start a cluster named "main" on port 5432, and is told not to.
#
#   scripts/ensure-postgresql.sh              install if missing
#   scripts/ensure-postgresql.sh --simulate   show what would be installed, whether or not it is missing
set -eu

here=$(dirname "$0")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

oldest=13 # what hathi works with
needed='postgres initdb pg_ctl pg_basebackup pg_rewind pg_controldata psql pgbench'

case "${1:-}" in
'') ;;
--simulate) SIMULATE=1 ;;
*) die "unknown argument $1: use none, or --simulate" ;;
esac

# usable DIR says whether all programs are in DIR, in a version that will do, and sets version.
usable() {
	for program in $needed; do
		[ -x "$1/$program" ] || return 1
	done
	# "postgres (PostgreSQL) 15.4 (Debian ...)", "postgres (PostgreSQL) 18beta1"
	version=$("$1/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9][0-9]*\).*/\1/p')
	[ -n "$version" ] && [ "$version" -ge "$oldest" ]
}

# find_postgresql sets found to the folder of the newest version, as hathi itself chooses.
find_postgresql() {
	found='' newest=0
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/postgresql/*/bin; do
		if usable "$dir" && [ "$version" -gt "$newest" ]; then
			found=$dir newest=$version
		fi
	done
	if [ -z "$found" ] && path=$(command -v postgres) && usable "$(dirname "$path")"; then
		found=$(dirname "$path") newest=$version
	fi
	[ -n "$found" ]
}

if [ -z "${SIMULATE:-}" ] && find_postgresql; then
	say "PostgreSQL $newest is installed in $found."
	exit 0
fi

if ! may_install; then
	die "PostgreSQL $oldest or later is needed and cannot be installed from here: $WHY_NOT.
Install it by hand (on Debian and Ubuntu, as root: apt-get install postgresql) and try again."
fi

settings=/etc/postgresql-common/createcluster.d/hathi-install.conf
say "Installing PostgreSQL: the package postgresql of this distribution."
say "It will not create or start a cluster of its own ($settings says so while it is installed)."

if [ -z "${SIMULATE:-}" ]; then
	# The setting is for this one installation: later ones are the administrator's affair.
	# shellcheck disable=SC2086 # SUDO is two words, or none
	trap '$SUDO rm -f "$settings"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	# shellcheck disable=SC2086
	$SUDO mkdir -p "${settings%/*}"
	# shellcheck disable=SC2086
	say 'create_main_cluster = false' | $SUDO tee "$settings" >/dev/null
fi

install_packages postgresql ||
	die "apt-get could not install PostgreSQL; its messages are above. Is this machine online?"
[ -z "${SIMULATE:-}" ] || exit 0

find_postgresql ||
	die "the package postgresql is installed, but not all of what hathi needs is there: version $oldest or later with $needed.
This distribution may be too old; https://wiki.postgresql.org/wiki/Apt has newer packages."
say "PostgreSQL $newest is installed in $found."
