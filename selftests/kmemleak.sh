#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Nothing that the module allocated is left without a pointer to it. Meant to come
# last: what was there before is forgotten by 'echo clear'.
leaks=/sys/kernel/debug/kmemleak

if ! [ -e $leaks ]; then
	echo "1..0 # SKIP this kernel has no kmemleak"
	exit 4
fi

echo "TAP version 13"
echo "1..1"
# It reports what two scans found so, and nothing younger than five seconds.
echo scan >$leaks
sleep 6
echo scan >$leaks
echo scan >$leaks
if [ -n "$(cat $leaks)" ]; then
	sed 's/^/# /' $leaks
	echo "not ok 1 nothing is leaked"
	exit 1
fi
echo "ok 1 nothing is leaked"
