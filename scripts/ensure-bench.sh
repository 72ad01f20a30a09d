#!/bin/sh
# Makes sure that what the failover benchmark needs is on this machine: ip, nsenter, fsfreeze, nft and
# mkfs.ext4.
set -eu

here=$(dirname "$0")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

missing=
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
{ command -v nsenter && command -v fsfreeze; } >/dev/null 2>&1 || missing="$missing util-linux"
command -v mkfs.ext4 >/dev/null 2>&1 || missing="$missing e2fsprogs"
command -v nft >/dev/null 2>&1 || missing="$missing nftables"
[ -n "$missing" ] || exit 0
may_install || die "the benchmark needs$missing, which cannot be installed from here: $WHY_NOT."
say "Installing for the benchmark:$missing."
# shellcheck disable=SC2086 # one word per package
install_packages $missing || die 'apt-get could not install them; its messages are above.'
