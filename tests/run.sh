#!/bin/bash
# Runs Criterion binaries one after the other and adds up their TAP reports. Takes nobody's word: a binary that crashes,
# runs too long or reports fewer tests than it announced has failed, and so has one that left a sanitizer's report behind.
#   tests/run.sh BINARY...        last line: "N passed, N failed" and ", N skipped" where there are some
# TEST_LIMIT    seconds for one binary (600)
# TEST_REPORTS  prefix of the sanitizers' report files (log_path); empty: none
# TEST_VERBOSE  set: show all output. Otherwise: lines that start with "# " (seeds, counters), and all of it on failure.
# TEST_JOBS     binaries at a time (one for each processor, 4 at most; 1 with TEST_REPORTS, which nobody could tell apart)
limit=${TEST_LIMIT:-600} reports=${TEST_REPORTS:-}
most=$(nproc) && ((most <= 4)) || most=4
most=${TEST_JOBS:-$most}
[[ -z $reports ]] || most=1
passed=0 failed=0 skipped=0 running=0 heard=0
top=$(mktemp -d) || exit 1
tmp=$top
trap 'rm -rf "$top"' EXIT
export XDG_CACHE_HOME=$top/cache    # nobody's own cache is filled
pid=
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM HUP

# Prints failed and skipped tests of a report, then "passed failed skipped" into $tmp/counts.
tap_read() {
    awk -v counts="$tmp/counts" '
        /^1\.\.[0-9]+$/     { plan = substr($0, 4) + 0; next }
        /^ok .*# SKIP/      { skip++; seen++; bad = 0; sub(/^ok - /, ""); sub(/ *# SKIP */, ": "); print "    skipped  " $0; next }
        /^ok /              { pass++; seen++; bad = 0; next }
        /^not ok /          { fail++; seen++; bad = 1; sub(/^not ok - /, ""); print "    FAILED   " $0; next }
        bad && /^ +(---|\.\.\.|failures:|assertions: )/ { next }
        bad && /^  /        { sub(/ \|\+$/, ""); print "         " $0 }
        END { if (seen < plan) { fail += plan - seen; print "    FAILED   " plan - seen " of " plan " tests gave no result" }
              print pass + 0, fail + 0, skip + 0 > counts }' "$1"
}

run_one() {
    local bin=$1 name=${1#build/} jobs= rc p f s start=$SECONDS report
    [[ $bin == */tests/unit/* ]] || jobs=-j1     # the others start clusters of processes: one at a time measures and races less
    rm -f "$tmp"/tap "$tmp"/counts
    [[ -z $reports ]] || rm -f "$reports".*
    # In the background, so that a signal ends the wait at once; timeout passes it on to the whole group.
    timeout -k 10 "$limit" "$bin" $jobs --color=never --tap="$tmp/tap" >"$tmp/log" 2>&1 </dev/null &
    pid=$!
    wait $pid 2>/dev/null
    rc=$?
    pid=
    if [[ -s $tmp/tap ]]; then tap_read "$tmp/tap" >"$tmp/said"; else : >"$tmp/said"; fi
    read -r p f s 2>/dev/null <"$tmp/counts" || p=0 f=0 s=0
    if [[ ! -s $tmp/tap || ( $rc != 0 && $f == 0 ) ]]; then
        f=$((f + 1))
        case $rc in
            124 | 137) echo "    FAILED   $name: not done after $limit s" ;;
            0) echo "    FAILED   $name: left no report" ;;
            *) echo "    FAILED   $name: exit status $rc$( ((rc > 128)) && echo " (signal $(kill -l $rc))")" ;;
        esac >>"$tmp/said"
    fi
    # A report can also hold a mere remark, such as that of a forked child about its parent's threads.
    if [[ -n $reports ]] && grep -qsE 'ERROR: |WARNING: |runtime error: ' "$reports".*; then
        f=$((f + 1))
        echo "    FAILED   $name: the sanitizer has something to say" >>"$tmp/said"
        for report in "$reports".*; do head -n 60 "$report"; done >>"$tmp/log"
    fi
    printf '%s  %s  %d passed, %d failed%s (%d s)\n' "$( ((f)) && echo FAIL || echo "ok  ")" "$name" "$p" "$f" \
        "$( ((s)) && echo ", $s skipped")" $((SECONDS - start))
    if ((f)) || [[ -n ${TEST_VERBOSE:-} ]]; then
        tail -n 400 "$tmp/log" | sed 's/^/    | /'
    else
        grep -a '^# ' "$tmp/log" | sed 's/^/    /'
    fi
    cat "$tmp/said"
    echo "$p $f $s" >"$tmp/last" && mv "$tmp/last" "$tmp/result"
}

# In a process of its own, which keeps what it has to say until it is over.
start_one() {
    local tmp=$top/$1
    mkdir "$tmp" || exit 1
    (
        trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM HUP
        trap - EXIT
        run_one "$2" >"$tmp/out" 2>&1
    ) &
    ((++running))
}

# Says what has ended and adds it up.
gather() {
    local r p f s
    wait -n
    ((running--))
    for r in "$top"/*/result; do
        [[ -s $r ]] || continue
        read -r p f s <"$r"
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
        cat "${r%result}out"
        rm -rf "${r%result}"
        ((++heard))
    done
}

count=0
for bin in "$@"; do
    start_one $((++count)) "$bin"
    ((running < most)) || gather
done
while ((running)); do gather; done
((heard == $#)) || failed=$((failed + $# - heard))
[[ $# -gt 0 ]] || echo "tests/run.sh: no test was named" >&2
echo "$passed passed, $failed failed$( ((skipped)) && echo ", $skipped skipped")"
((failed == 0 && passed > 0))
