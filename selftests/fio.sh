#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs unmodified fio on evpl's memory. Four jobs, each of which opens /dev/evpl itself,
# write and verify an NVMe disk: through io_uring, through io_uring with registered buffers
# where the kernel takes file-backed memory for them (6.1 doesn't), and through libaio. Then
# one fio sends and another receives, over TCP, and over soft-RoCE, where both register the
# memory.
set -u

disk=${EVPL_TEST_DISK:-}
percent=${EVPL_TEST_PERCENT:-100}
blocks=$((percent > 100 ? 512 : percent < 1 ? 1 : 512 * percent / 100))
counters=/sys/kernel/debug/evpl/counters
address=192.0.2.1
port=8765
tmp=$(mktemp -d)

clean_up() {
	rdma link delete evpl-rxe 2>/dev/null
	ip link delete evpl-dummy 2>/dev/null
	rm -rf "$tmp"
}
trap clean_up EXIT

on_disk() {
	rm -f "$tmp"/*
	fio --name=evpl --filename="$disk" --direct=1 --iodepth=8 --rw=randwrite \
		--bs=64k --size=$((blocks * 64))k --offset_increment=32M --numjobs=4 \
		--mem=mmapshared:/dev/evpl --verify=crc32c --verify_fatal=1 \
		--group_reporting "$@" >"$tmp/fio" 2>&1
}

# Succeeds if the receiver listens. A sender that connects earlier is refused.
is_there() {
	case $1 in
	net) ss -Htln "sport = :$port" ;;
	rdma) rdma resource show cm_id ;;
	esac | grep -q ":$port\b"
}

# between ENGINE RECEIVER SENDER: one fio sends to another, each with options of its own.
between() {
	local both=(--ioengine="$1" --port="$port" --bs=64k --mem=mmapshared:/dev/evpl)
	local receiver status=0
	rm -f "$tmp"/*
	# shellcheck disable=SC2086
	timeout 600 fio --name=receiver "${both[@]}" --rw=read $2 >"$tmp/receiver" 2>&1 &
	receiver=$!
	for _ in $(seq 600); do
		is_there "$1" && break
		sleep 0.1
	done
	# shellcheck disable=SC2086
	timeout 600 fio --name=sender "${both[@]}" --rw=write $3 >"$tmp/sender" 2>&1 || status=1
	wait "$receiver" || status=1
	return $status
}

have_rxe() {
	modprobe -q -a dummy rdma_rxe &&
		ip link add evpl-dummy type dummy &&
		ip address add $address/24 dev evpl-dummy &&
		ip link set evpl-dummy up &&
		rdma link add evpl-rxe type rxe netdev evpl-dummy
}

result() {
	local ok=$1
	shift
	[ "$ok" = 0 ] && echo "ok $*" && return
	tail -n 40 "$tmp"/* | sed 's/^/# /'
	echo "not ok $*"
}

skip() {
	echo "1..0 # SKIP $1"
	exit 4
}

command -v fio >/dev/null || skip "fio is not installed"
[ -b "$disk" ] || skip "name a disk that may be overwritten in EVPL_TEST_DISK"

echo "TAP version 13"
echo "1..6"
before=$(cat "$counters")

on_disk --ioengine=io_uring
result $? "1 fio writes and verifies from this memory"

# Don't derive from the version whether the kernel can do this. Try it.
on_disk --ioengine=io_uring --fixedbufs
status=$?
if [ $status != 0 ] && grep -q 'Operation not supported' "$tmp/fio"; then
	echo "ok 2 fio registers this memory # SKIP this kernel registers no file-backed memory"
else
	result $status "2 fio registers this memory"
fi

on_disk --ioengine=libaio
result $? "3 fio writes and verifies from this memory through libaio"

# fio counts a short read as a whole block, so a receiver of 8 MiB would end before it has
# read all 8 MiB, and the sender may fail with ECONNRESET, with any kind of memory.
between net "--listen --size=64M" "--hostname=127.0.0.1 --size=8M"
result $? "4 fio sends and receives this memory over TCP"

if have_rxe; then
	between rdma "--iodepth=16 --size=8M" \
		"--hostname=$address --size=8M --verb=write --iodepth_batch_complete=1"
	result $? "5 fio sends and receives this memory by RDMA"
else
	echo "ok 5 fio sends and receives this memory by RDMA # SKIP no soft-RoCE device can be made"
fi

for _ in $(seq 600); do
	[ "$(cat "$counters")" = "$before" ] && break
	sleep 0.1
done
rm -f "$tmp"/*
cat "$counters" >"$tmp/counters"
[ "$(cat "$counters")" = "$before" ]
result $? "6 fio leaves nothing behind"
