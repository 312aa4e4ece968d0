#!/bin/bash
# The demonstration behind `make run`: asks the bundled model something that only the demo corpus knows.
#   ops/demo.sh [BUILD] [LINE]     BUILD: folder of the programs (build/release); LINE: line of configs/demo/questions.jsonl (3)
cd "$(dirname "$0")/.." || exit 1
build=${1:-build/release} line=${2:-3}
model=models/sluice-tiny-Q8_0.gguf corpus=configs/demo/corpus questions=configs/demo/questions.jsonl
for f in "$model" "$questions"; do [[ -r $f ]] || { echo "ops/demo.sh: $f is missing" >&2; exit 4; }; done
# The file is ours, one object a line and no escapes in the question, so sed is enough of a JSON reader.
field() { sed -n "${line}s/.*\"$1\": *\"\([^\"\\\\]*\)\".*/\1/p" "$questions"; }
question=$(field question)
[[ $question ]] || { echo "ops/demo.sh: no question in line $line of $questions" >&2; exit 3; }
command=("$build/sluice" run -m "$model" --rag "$corpus" -n 32 --stop $'\n' -p "$question")
echo "A local cluster (a coordinator, two pipeline stages, a retrieval worker) answers from the passages in $corpus:"
printf '$'
printf ' %q' "${command[@]}"
printf '\n(the corpus says: %s)\n\n' "$(field answer)"
exec "${command[@]}"
