#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Checks that the tests that ran before this reached at least 95% of the module's lines, but for
# functions that nothing calls on this kernel. Also checks that the file 'unreached' names each
# other line, and these functions, with a reason. The module must have been built with
# EVPL_DEBUG=1 for a kernel that has gcov.
here=$(dirname "$(realpath "$0")")
least=95
gcov=/sys/kernel/debug/gcov

data=$(find $gcov -path '*/kernel/*.gcda' 2>/dev/null)
if [ -z "$data" ]; then
	echo "1..0 # SKIP nothing was counted: the module or the kernel has no gcov"
	exit 4
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for file in $data; do
	cp "$file" "${file%.gcda}.gcno" "$tmp"
done

# Print FILE:LINE:REACHED:FUNCTION:TEXT for each line that has code; REACHED is 1 or 0. A header
# appears once for each file that includes it; its line is reached if one of these reached it. A
# function begins where its name and a parenthesis stand on a line without an indent.
(cd "$tmp" && gcov -t ./*.gcda) | awk -F: '
	NF < 3 { next }
	$2 ~ /^ *0$/ && $3 == "Source" { file = $4; sub(".*/kernel/", "kernel/", file) }
	$3 ~ /^[a-z].*\(/ && $0 !~ /;$/ {
		name = $3
		sub(/\(.*/, "", name)
		sub(/.*[ *]/, "", name)
	}
	file !~ /^kernel\// || file ~ /syncpoint\.c$/ || $1 ~ /^ *-$/ || $2 ~ /^ *0$/ { next }
	{
		text = $0
		sub(/^[^:]*:[^:]*:[ \t]*/, "", text)
		key = file ":" ($2 + 0)
		texts[key] = name ":" text
		if ($1 + 0 > 0)
			reached[key] = 1
	}
	END { for (key in texts) print key ":" (key in reached) ":" texts[key] }
' | sort -t: -k1,1 -k2,2n >"$tmp/lines"

all=$(wc -l <"$tmp/lines")
reached=$(cut -d: -f3 "$tmp/lines" | grep -c 1)
unnamed=0

echo "TAP version 13"
echo "1..2"
while IFS=: read -r file line count name text; do
	[ "$count" = 0 ] || continue
	found=$(key="$file: $text" function="$file: $name()" awk -F' # ' '
		$1 == ENVIRON["key"] { print "line " $2; exit }
		$1 == ENVIRON["function"] { print "function " $2; exit }' \
		"$here/unreached")
	[[ $found != 'function '* ]] || all=$((all - 1))
	reason=${found#* }
	[ -n "$reason" ] || unnamed=$((unnamed + 1))
	echo "# $file:$line: $text  # ${reason:-NOT IN selftests/unreached}"
done <"$tmp/lines"

echo "# $reached of $all lines reached"
if [ "$all" = 0 ]; then
	echo "not ok 1 at least $least% of the lines are reached"
	echo "not ok 2 every other line is named in selftests/unreached"
	exit 1
fi
[ $((reached * 100)) -ge $((all * least)) ] || echo -n "not "
echo "ok 1 at least $least% of the lines are reached"
[ $unnamed = 0 ] || echo -n "not "
echo "ok 2 every other line is named in selftests/unreached"
[ $unnamed = 0 ] && [ $((reached * 100)) -ge $((all * least)) ]
