#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs unmodified perftest: ib_write_bw registers evpl's memory with soft-RoCE, whose
# two ends are on one dummy device, and writes from one client's memory to another's.
set -u

counters=/sys/kernel/debug/evpl/counters
address=192.0.2.1
log=$(mktemp -d)

clean_up() {
	rdma link delete evpl-rxe 2>/dev/null
	ip link delete evpl-dummy 2>/dev/null
	rm -rf "$log"
}
trap clean_up EXIT

result() {
	local ok=$1
	shift
	[ "$ok" = 0 ] && echo "ok $*" && return
	tail -n 30 "$log"/* | sed 's/^/# /'
	echo "not ok $*"
}

skip() {
	echo "1..0 # SKIP $1"
	exit 4
}

command -v ib_write_bw >/dev/null || skip "perftest is not installed"
modprobe -q -a dummy rdma_rxe || skip "no rdma_rxe in this kernel"
if ! { ip link add evpl-dummy type dummy &&
	ip address add $address/24 dev evpl-dummy &&
	ip link set evpl-dummy up &&
	rdma link add evpl-rxe type rxe netdev evpl-dummy; }; then
	skip "no soft-RoCE device can be made"
fi

echo "TAP version 13"
echo "1..3"
before=$(cat "$counters")

options=(-d evpl-rxe -x 1 -s 65536 -n 200 --mmap=/dev/evpl -F)
timeout 600 ib_write_bw "${options[@]}" >"$log/server" 2>&1 &
server=$!
for _ in $(seq 600); do
	ss -Htln 'sport = :18515' | grep -q . && break
	sleep 0.1
done
timeout 600 ib_write_bw "${options[@]}" $address >"$log/client" 2>&1
result $? "1 ib_write_bw writes from this memory"
wait $server
result $? "2 ib_write_bw receives in this memory"

for _ in $(seq 600); do
	[ "$(cat "$counters")" = "$before" ] && break
	sleep 0.1
done
cp "$counters" "$log/counters"
[ "$(cat "$counters")" = "$before" ]
result $? "3 ib_write_bw leaves nothing behind"
