#!/bin/sh
# Makes sure that there is a C compiler: Go's race detector needs one. Ends with 1 when there is none
# and none can be installed; the tests then run without the race detector.
set -eu

here=$(dirname "$0")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

# works says whether a program can be compiled and linked; gcc may be there without the C library's headers.
works() {
	compiler=$(go env CC)
	dir=$(mktemp -d)
	printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$dir/a.c"
	result=0
	"$compiler" -o "$dir/a" "$dir/a.c" >/dev/null 2>&1 || result=1
	rm -rf "$dir"
	return "$result"
}

works && exit 0
may_install || die "the race detector needs a C compiler, and none can be installed: $WHY_NOT."
say 'Installing a C compiler for the race detector: gcc, libc6-dev.'
install_packages gcc libc6-dev || die 'apt-get could not install gcc; its messages are above.'
works || die 'gcc is installed and does not work.'
