#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Checks that kmemleak reports no object that the module, or the kernel for its tests, has
# allocated. Run it after the tests; run 'kmemleak.sh clear' before them, so that kmemleak
# forgets the leaks that were there before.
leaks=/sys/kernel/debug/kmemleak

if ! [ -e $leaks ]; then
	echo "1..0 # SKIP this kernel has no kmemleak"
	exit 4
fi

# kmemleak reports an object that two scans have found unreferenced, unless it is younger
# than five seconds. When kmemleak runs out of memory it turns itself off, and the writes
# fail.
scan()
{
	sleep 6
	echo scan >$leaks && echo scan >$leaks
}

if [ "${1:-}" = clear ]; then
	scan && echo clear >$leaks
	exit
fi

echo "TAP version 13"
echo "1..1"
if ! scan; then
	echo "not ok 1 nothing is leaked"
	exit 1
fi
if [ -n "$(cat $leaks)" ]; then
	sed 's/^/# /' $leaks
	echo "not ok 1 nothing is leaked"
	exit 1
fi
echo "ok 1 nothing is leaked"
