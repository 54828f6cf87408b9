#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Nothing that was allocated meanwhile, by the module or for its tests, is left without
# a pointer to it. Meant to come last; 'kmemleak.sh clear' comes first, and forgets what
# was there before.
leaks=/sys/kernel/debug/kmemleak

if ! [ -e $leaks ]; then
	echo "1..0 # SKIP this kernel has no kmemleak"
	exit 4
fi

# It reports what two scans found so, which take a while each, and nothing younger
# than five seconds. It turns itself off when it runs out of memory.
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
