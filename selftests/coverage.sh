#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# selftests/coverage.sh: prints FILE:LINE:REACHED:FUNCTION:TEXT for each line of the module that has
# code; REACHED is 1 if the tests that ran on this kernel before reached the line, and 0 if not. The
# module must have been built with EVPL_DEBUG=1 for a kernel that has gcov.
#
# selftests/coverage.sh FILE...: checks such lines of one or more machines. A line is reached if it
# was reached on one of them. At least 95% must be, but for functions that nothing calls on this
# kernel. The file 'unreached' must name each other line, and these functions, with a reason.
here=$(dirname "$(realpath "$0")")
least=95
gcov=/sys/kernel/debug/gcov

# A header appears once for each file that includes it. A function begins where its name and a
# parenthesis stand on a line without an indent.
# Gcov complains of the kernel's headers, which it can't find. On the same stream as the lines, a
# complaint would split one of them.
print_lines() {
	local data file dir

	data=$(find $gcov -path '*/kernel/*.gcda' 2>/dev/null)
	if [ -z "$data" ]; then
		echo "1..0 # SKIP nothing was counted: the module or the kernel has no gcov"
		exit 4
	fi
	dir=$tmp/gcov
	mkdir "$dir"
	for file in $data; do
		cp "$file" "${file%.gcda}.gcno" "$dir"
	done
	(cd "$dir" && gcov -t ./*.gcda 2>/dev/null) | awk -F: '
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
			print file ":" ($2 + 0) ":" ($1 + 0 > 0) ":" name ":" text
		}
	'
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if [ $# = 0 ]; then
	print_lines
	exit
fi
sed -n 's,^# [^:]* coverage: \(kernel/\),\1,p' "$@" | sort -t: -k1,1 -k2,2n -k3,3nr |
	sort -t: -k1,1 -k2,2n -u -s >"$tmp/lines"

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
