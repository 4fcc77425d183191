#!/usr/bin/env bash
# run_test.sh RUN BUILD_FOLDER: tests/gpu/run on the emulated device: parts by name, results, exit codes.
set -euo pipefail
run=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }

"$run" --emulated --build "$build" --results "$work/results" tests/device bench/gemv bench/hessian | tee "$work/out"
for file in environment.txt summary.txt tests_device.log bench.log table.md results.json; do
  [ -s "$work/results/$file" ] || fail "no $file"
done
grep -q '^tests/device *passed' "$work/results/summary.txt" || fail "tests/device has not passed"
grep -q '^bench *passed' "$work/results/summary.txt" || fail "bench has not passed"
grep -q '| GEMV at 3 bits |' "$work/out" || fail "no table"
if grep -q 'k-means' "$work/results/table.md"; then fail "parts that nobody asked for"; fi

code=0
"$run" --emulated --build "$build" --results "$work/results" tests/nothing 2>/dev/null || code=$?
[ $code = 2 ] || fail "an unknown test gives $code"
# A failing step makes the run fail.
code=0
"$run" --emulated --build "$build" --results "$work/failed" bench/nothing >/dev/null || code=$?
[ $code = 1 ] || fail "a failing part gives $code"
grep -q "there is no part 'nothing'" "$work/failed/bench.log" || fail "the log does not say why"
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
  code=0
  "$run" --build "$build" 2>"$work/stderr" || code=$?
  [ $code = 5 ] || fail "without a GPU it gives $code"
  grep -q "no GPU here" "$work/stderr" || fail "it does not say that there is no GPU"
fi
