#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Unmodified fio: four jobs, each an open of /dev/evpl of its own, write and
# verify an NVMe disk through io_uring from this memory; as registered buffers
# where the kernel takes file-backed memory for those (6.1 doesn't).
set -u

disk=${EVPL_TEST_DISK:-}
counters=/sys/kernel/debug/evpl/counters
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run_fio() {
	fio --name=evpl --filename="$disk" --direct=1 --ioengine=io_uring \
		--iodepth=8 --rw=randwrite --bs=64k --size=32M \
		--offset_increment=32M --numjobs=4 --mem=mmapshared:/dev/evpl \
		--verify=crc32c --verify_fatal=1 --group_reporting "$@" \
		>"$log" 2>&1
}

result() {
	local ok=$1
	shift
	[ "$ok" = 0 ] && echo "ok $*" && return
	sed 's/^/# /' "$log"
	echo "not ok $*"
}

skip() {
	echo "1..0 # SKIP $1"
	exit 4
}

command -v fio >/dev/null || skip "fio is not installed"
[ -b "$disk" ] || skip "name a disk that may be overwritten in EVPL_TEST_DISK"

echo "TAP version 13"
echo "1..3"
before=$(cat "$counters")

run_fio
result $? "1 fio writes and verifies from this memory"

# What the kernel can is asked of the kernel, not of its version.
run_fio --fixedbufs
status=$?
if [ $status != 0 ] && grep -q 'Operation not supported' "$log"; then
	echo "ok 2 fio registers this memory # SKIP this kernel registers no file-backed memory"
else
	result $status "2 fio registers this memory"
fi

for _ in $(seq 100); do
	[ "$(cat "$counters")" = "$before" ] && break
	sleep 0.1
done
cat "$counters" >"$log"
[ "$(cat "$counters")" = "$before" ]
result $? "3 fio leaves nothing behind"
