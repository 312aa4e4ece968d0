#!/bin/bash
# One fuzz target: a campaign, packing of what it found, or what its inputs reach. Called by make (ops/make/targets.mk).
#   ops/fuzz.sh BUILD NAME SECONDS [RUNS]   libFuzzer until SECONDS of CPU time or RUNS inputs (-1: no limit) are used up
#   ops/fuzz.sh --keep BUILD NAME           the inputs that reach most to tests/fuzz/corpus/NAME.tar.gz, small ones only
#   ops/fuzz.sh --cover BUILD NAME ...      lines of the parsers' files that build/fuzz/corpus/NAME reach together (a MODE=cover build)
KEEP_BYTES=${FUZZ_KEEP_BYTES:-4096}         # an input in the tree at most ...
KEEP_ALL=${FUZZ_KEEP_ALL:-20000}            # ... and all of a target's, packed: the whole corpus stays below 300 KB
TIMEOUT=${FUZZ_TIMEOUT:-20}                 # s of one input; they pass while a process is stopped, too
set -u

# " * Parser: FILE FILE" in the target's head comment: the files that must be reached.
parser_files() { sed -n 's/^[ /]\*\+ Parser: \(.*[^ */]\).*$/\1/p' "tests/fuzz/fuzz_$1.c"; }

run() {
    local build=$1 name=$2 want=$3 runs=${4:--1} corpus=$1/corpus/$2 log=$1/$2.log cpu=0 total=0 cov=0 status left
    mkdir -p "$corpus" && rm -f "$log"
    local opts=("-timeout=$TIMEOUT" -max_len=16384 -len_control=0 -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=$build/crash-$name-")
    [[ ! -f tests/fuzz/$name.dict ]] || opts+=("-dict=tests/fuzz/$name.dict")
    while :; do
        left=$((want - cpu > 1 ? want - cpu : 1))
        TIMEFORMAT='%U %S'
        { time "$build/fuzz_$name" "${opts[@]}" -max_total_time=$left -runs="$runs" "$corpus" >"$log.part" 2>&1; } 2>"$log.time"
        status=$?
        cat "$log.part" >>"$log"
        read -r user sys < <(tail -n 1 "$log.time")
        cpu=$(awk -v a="$cpu" -v u="$user" -v s="$sys" 'BEGIN { printf "%d", a + u + s }')
        total=$((total + $(sed -n 's/^stat::number_of_executed_units: *//p' "$log.part" | tail -n 1 | grep . || echo 0)))
        cov=$(sed -n 's/^.* cov: \([0-9]*\) .*$/\1/p' "$log.part" | tail -n 1)
        [[ $status == 0 && $runs == -1 && $cpu -lt $want ]] || break
    done
    rm -f "$log.part" "$log.time"
    printf '    %s: %d CPU s, %d runs, corpus %d inputs, %s edges, %s\n' "$name" "$cpu" "$total" \
        "$(find "$corpus" -type f ! -name stamp | wc -l)" "${cov:-?}" "$( ((status)) && echo "FAILED (status $status, $log)" || echo "no crash")"
    if ((status)); then tail -n 40 "$log"; fi
    return $status
}

keep() {
    local build=$1 name=$2 corpus=$1/corpus/$2 out=tests/fuzz/corpus/$2.tar.gz tmp cap=$KEEP_BYTES
    tmp=$(mktemp -d) || return 1
    while :; do
        rm -rf "$tmp"/in "$tmp"/kept && mkdir -p "$tmp/in" "$tmp/kept"
        find "$corpus" -type f ! -name stamp -size "-$((cap + 1))c" -exec cp -t "$tmp/in" {} +
        "$build/fuzz_$name" -merge=1 -rss_limit_mb=2048 "-timeout=$TIMEOUT" "$tmp/kept" "$tmp/in" >"$tmp/log" 2>&1 || { tail "$tmp/log"; return 1; }
        mkdir -p tests/fuzz/corpus
        tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -C "$tmp/kept" -cf - $(ls "$tmp/kept") | gzip -9n >"$out"
        (($(stat -c %s "$out") > KEEP_ALL && cap > 16)) || break
        cap=$((cap * 2 / 3))
    done
    printf '    %s: %d inputs of at most %d bytes, %d bytes packed\n' "$name" "$(ls "$tmp/kept" | wc -l)" "$cap" "$(stat -c %s "$out")"
    rm -rf "$tmp"
}

cover() {
    local build=$1 name f
    shift
    find "$build/obj" -name '*.gcda' -delete
    for name in "$@"; do "$build/tests/fuzz/fuzz_$name" "build/fuzz/corpus/$name" >/dev/null || return 1; done
    for f in $(for name in "$@"; do parser_files "$name"; done | tr ' ' '\n' | sort -u); do
        gcov -n "$build/obj/${f%.c}.gcno" 2>/dev/null | awk -v f="$f" '
            /^File / { mine = $2 == "\x27" f "\x27" }
            mine && /^Lines executed:/ { split($2, a, ":"); printf "    %6s of %4d lines  %s\n", a[2], $NF, f; mine = 0 }'
    done
}

case ${1:-} in
    --keep) keep "$2" "$3" ;;
    --cover) cover "${@:2}" ;;
    *) run "$@" ;;
esac
