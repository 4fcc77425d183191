#!/usr/bin/env bash
# The same bytes of every method on 1, 2, 3 ranks, with rows shared by a team, with other thread counts, with either calibration, and when three
# ranks take up what a killed start of another number left.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
for method in "vptq --residual-centroids 16 --outlier-percent 4 --outlier-centroids 16" "voronoi --residual-centroids 16" \
  "gptq --bits 3" "rtn --bits 3" "bitdistiller --bits 2" "awq --bits 3 --column-scales all" \
  "afpq --bits 3 --afpq-with gptq --group-grid original" "gptvq --bits 2 --group-weights 2048 --scale-block 16" \
  "gptvq --bits 3 --vector-columns 1 --codebook-rank 4" "quip_sharp --bits 3" "trellis --bits 2 --hessian guided --state-bits 12 --trellis-sweeps 2" "aqlm --code-bits 4 --in-group 4" "voronoi --calibration sequential --centroids 64" \
  "voronoi --hessian guided --hessian-groups 2 --centroids 64" "voronoi --calibration sequential --target asymmetric --hessian guided --hessian-groups 2 --centroids 64"; do
  read -ra words <<<"--method $method"
  options=("${common[@]}" "${words[@]}")
  rm -rf "$work"/run*
  expect 0 ranks 1 quantize --run "$work/run1" "${options[@]}" --threads 1
  expect 0 ranks 2 quantize --run "$work/run2" "${options[@]}"
  start_held "rename layers/ 3" "$work/stderr" "$VORONOI" quantize --run "$work/run3" "${options[@]}" --hessian-window 2
  kill -9 $pid
  go_on
  wait $pid || true
  expect 0 ranks 3 quantize --run "$work/run3" "${options[@]}" --team-size 3 --hessian-window 2
  same_layers "$work/run1" "$work/run2"
  same_layers "$work/run1" "$work/run3"
  [ "$(ls "$work/run1/layers" | wc -l)" = "$n_linears" ] || fail "not $n_linears layers"
  expect 0 "$VORONOI" verify "$work/run3"
  [ -z "$(ls "$work/run3/hessians")" ] || fail "Hessians were left behind"
done
# In bf16, whatever computes the products: tiles where the machine has them, vectors, or what serves any processor.
options=("${common[@]}" --method gptq --bits 3 --hessian guided)
rm -rf "$work"/run*
expect 0 ranks 1 quantize --run "$work/run1" "${options[@]}" --dtype bf16 --threads 1
VORONOI_BF16_UNIT=vectors expect 0 ranks 2 quantize --run "$work/run2" "${options[@]}" --dtype bf16
VORONOI_BF16_UNIT=portable expect 0 ranks 3 quantize --run "$work/run3" "${options[@]}" --dtype bf16 --hessian-window 2
same_layers "$work/run1" "$work/run2"
same_layers "$work/run1" "$work/run3"
expect 2 ranks 1 quantize --run "$work/run1" "${options[@]}" --dtype f32
expect 2 env VORONOI_BF16_UNIT=other "$VORONOI" quantize --run "$work/run4" "${options[@]}" --dtype bf16
# Another seed gives other bytes: the comparison above can fail.
expect 0 ranks 1 quantize --run "$work/seed1" "${common[@]}" --method vptq --seed 1
expect 0 ranks 1 quantize --run "$work/seed0" "${common[@]}" --method vptq --seed 0
! diff -rq "$work/seed0/layers" "$work/seed1/layers" >/dev/null || fail "the seed changes nothing"
