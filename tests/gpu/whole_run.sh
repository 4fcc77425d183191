#!/usr/bin/env bash
# A whole run on the GPU's context (or its emulation): calibration gives the same bytes on one and two ranks, quantize and eval go
# through, and the perplexity in fp32 is the CPU's. Tiny settings: an emulated GPU computes a million times slower.
# shellcheck source=../e2e/common.sh
. "$(dirname "$0")/../e2e/common.sh"
ranks() { local n=$1; shift; timeout -k 5 600 mpirun --bind-to none -n "$n" "$VORONOI" "$@"; }
if ! "$VORONOI" eval --model "$work/model" --text "$evaluation_text" --context 16 --windows 1 --device cuda >"$work/out" 2>&1; then
  if grep -q -e "no CUDA backend" -e "there is no GPU" "$work/out"; then skip machine "$(tail -n 1 "$work/out")"; fi
  cat "$work/out"
  fail "eval --device cuda"
fi

tiny=(--model "$work/model" --calibration-text "$calibration_text" --calibration-sequences 4 --calibration-context 24)
calibrate=(quantize "${tiny[@]}" --stages calibrate --keep-hessians --device cuda)
ranks 1 "${calibrate[@]}" --run "$work/calibrated1"
counts=(1 2)
if ! ranks 2 "${calibrate[@]}" --run "$work/calibrated2" >"$work/out" 2>&1; then
  grep -q "ranks share" "$work/out" || { cat "$work/out"; fail "calibration on two ranks"; }
  echo "one GPU: two ranks are left out"
  counts=(1)
else
  diff -rq "$work/calibrated1/hessians" "$work/calibrated2/hessians" || fail "Hessians differ on one and two ranks"
fi
# The type of the products is part of what a run is.
expect 2 "$VORONOI" "${calibrate[@]}" --run "$work/calibrated1" --dtype f32
grep -q dtype "$work/stderr" || fail "another --dtype is not named"

run=("${tiny[@]}" --method vptq --vector-length 4 --centroids 4 --kmeans-iterations 2)
for n in "${counts[@]}"; do ranks "$n" quantize "${run[@]}" --run "$work/run$n" --device cuda; done
if [ "${#counts[@]}" = 2 ]; then same_layers "$work/run1" "$work/run2"; fi
"$VORONOI" verify "$work/run1"

perplexity() { "$VORONOI" eval --model "$1" --text "$evaluation_text" --context 32 --windows 2 --json "${@:2}"; }
value() { sed -n 's/.*"'"$1"'":"\{0,1\}\([^,"}]*\).*/\1/p' | head -n 1; }
for subject in "$work/model" "$work/run1"; do
  on_cpu=$(perplexity "$subject" --device cpu | value perplexity)
  in_fp32=$(perplexity "$subject" --device cuda --dtype f32 | value perplexity)
  default=$(perplexity "$subject" --device cuda)
  [ "$(echo "$default" | value dtype)" != float32 ] || fail "the model's 16-bit type is not the default on a GPU"
  awk -v a="$on_cpu" -v b="$in_fp32" -v c="$(echo "$default" | value perplexity)" 'BEGIN {
    exit !(a > 1 && (b - a) ^ 2 < (1e-4 * a) ^ 2 && (c - a) ^ 2 < (2e-2 * a) ^ 2) }' ||
    fail "perplexity of $subject: CPU $on_cpu, GPU in fp32 $in_fp32, by default $(echo "$default" | value perplexity)"
done
echo "whole run on the GPU: same bytes on ${counts[*]} rank(s), perplexity as on the CPU"
