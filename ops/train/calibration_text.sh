#!/bin/sh
# The text that the bundled models' profiles were calibrated on: documents of the synthetic world that no test has, and between
# them pieces of a natural text. Writes to standard output.
# usage: calibration_text.sh NATURAL_TEXT     (WikiText-2, validation split, for the bundled profiles)
set -eu
here=$(dirname "$0")
for i in $(seq 40); do
    python3 "$here/world.py" --kind context --count 4 --seed $((9000 + i)); echo
    python3 "$here/world.py" --kind needle --count 1 --seed $((9000 + i)); echo
    python3 "$here/world.py" --kind copy --count 2 --seed $((9000 + i)); echo
    python3 "$here/world.py" --kind story --count 2 --seed $((9000 + i)); echo
    tail -c +$((i * 3000)) "$1" | head -c 1600; echo; echo
done
