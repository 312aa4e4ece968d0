#!/bin/bash
# Line coverage of the product from a MODE=cover build: gcovr's table where gcovr is installed, otherwise one line a file from gcov.
#   ops/cover.sh build/cover
build=$1
if command -v gcovr >/dev/null; then
    exec gcovr -r . --exclude 'tests/' --exclude '.*/tests/' --object-directory "$build/obj" "$build/obj"
fi
# The notes (.gcno), not the data: a file that no test runs has no data and counts as zero.
find "$build/obj" -name '*.gcno' -not -path '*/tests/*' -print0 | LC_ALL=C xargs -0 -r gcov -n 2>/dev/null | awk '
    /^File /                      { file = substr($2, 2, length($2) - 2); next }
    /^Lines executed:/ && file !~ /^\// && file !~ /^tests\// && file != "" {
        split($2, a, ":"); sub("%", "", a[2]); n = $NF + 0; hit = a[2] * n / 100
        if (hit >= best[file]) { best[file] = hit; lines[file] = n }
        file = ""
    }
    END {
        for (f in lines) { printf "%6.1f %%  %5d lines  %s\n", lines[f] ? 100 * best[f] / lines[f] : 0, lines[f], f | "sort -k4"
                           h += best[f]; t += lines[f] }
        close("sort -k4")
        if (!t) { print "no coverage data"; exit 1 }
        printf "%6.1f %%  %5d lines  all\n", 100 * h / t, t
    }'
