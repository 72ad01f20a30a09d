# shellcheck shell=sh
# Words and package installation for the scripts beside this file, which read it with ".".

say() { printf '%s\n' "$*"; }

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# may_install says whether packages can be installed here, and sets SUDO. Otherwise WHY_NOT says why not.
# shellcheck disable=SC2034 # WHY_NOT is for the caller
may_install() {
	SUDO='' WHY_NOT=''
	if ! command -v apt-get >/dev/null 2>&1; then
		WHY_NOT='this machine has no apt-get'
	elif [ "$(id -u)" -eq 0 ]; then
		return 0
	elif ! command -v sudo >/dev/null 2>&1; then
		WHY_NOT='this user is not root and there is no sudo'
	elif [ -t 0 ] && [ -t 2 ]; then
		SUDO=sudo # which may ask for a password
		return 0
	elif sudo -n true 2>/dev/null; then
		SUDO='sudo -n'
		return 0
	else
		WHY_NOT='this user is not root and sudo wants a password, for which there is no terminal'
	fi
	return 1
}

# install_packages NAME... installs packages; with SIMULATE set, it shows what apt-get would do.
# The package lists are fetched when a name is not in them, and once more when an install fails: lists
# that are out of date point to files that are gone.
install_packages() {
	if [ -n "${SIMULATE:-}" ]; then
		apt-get -s install -y --no-install-recommends "$@"
		return
	fi
	fresh=
	if ! apt-cache show "$@" >/dev/null 2>&1; then
		apt_get update || return 1
		fresh=1
	fi
	apt_get install -y --no-install-recommends "$@" && return 0
	[ -z "$fresh" ] || return 1
	apt_get update && apt_get install -y --no-install-recommends "$@"
}

apt_get() {
	say "+ ${SUDO:+$SUDO }apt-get $*"
	# shellcheck disable=SC2086 # SUDO is two words, or none
	$SUDO env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" </dev/null
}
