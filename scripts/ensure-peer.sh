#!/bin/sh
# Makes sure that Patroni, etcd and HAProxy are on this machine, from the distribution's packages, to
# measure hathi beside them. No recommended packages, and no service is started: the packages ask
# policy-rc.d, which forbids it while they are installed. PostgreSQL must be there already.
set -eu

here=$(dirname "$0")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

missing=
command -v patroni >/dev/null 2>&1 || missing="$missing patroni"
command -v etcd >/dev/null 2>&1 || missing="$missing etcd-server"
command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || missing="$missing haproxy"
# Patroni speaks to etcd's version 3 API with urllib3 alone; the package still wants python3-etcd there.
/usr/bin/python3 -c 'import etcd' >/dev/null 2>&1 || missing="$missing python3-etcd"
/usr/bin/python3 -c 'import psycopg2' >/dev/null 2>&1 || missing="$missing python3-psycopg2"
[ -n "$missing" ] || exit 0
may_install || die "the comparison needs$missing, which cannot be installed from here: $WHY_NOT."
say "Installing for the comparison:$missing. Nothing is started."
policy=/usr/sbin/policy-rc.d made=
if [ ! -e "$policy" ]; then
	made=1
	# shellcheck disable=SC2086 # SUDO is two words, or none
	trap '[ -z "$made" ] || $SUDO rm -f "$policy"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	# shellcheck disable=SC2086
	printf '#!/bin/sh\nexit 101\n' | $SUDO tee "$policy" >/dev/null
	# shellcheck disable=SC2086
	$SUDO chmod 755 "$policy"
fi
# shellcheck disable=SC2086 # one word per package
install_packages $missing || die 'apt-get could not install them; its messages are above.'
