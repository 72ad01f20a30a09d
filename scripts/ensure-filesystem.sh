#!/bin/sh
# Makes sure that there is mkfs.ext4: the tests of frozen and full storage make a file system of their
# own. Ends with 1 when there is none and none can be installed; those tests then skip.
set -eu

here=$(dirname "$0")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

there() { command -v mkfs.ext4 >/dev/null 2>&1 || [ -x /sbin/mkfs.ext4 ]; }

there && exit 0
may_install || die "the tests of frozen storage need mkfs.ext4, and it cannot be installed: $WHY_NOT."
say 'Installing mkfs.ext4 for the tests of frozen storage: e2fsprogs.'
install_packages e2fsprogs || die 'apt-get could not install e2fsprogs; its messages are above.'
there || die 'e2fsprogs is installed and mkfs.ext4 is not there.'
