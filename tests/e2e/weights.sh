#!/usr/bin/env bash
# Weights trained behind uniform codes: the divergence falls far below that of clipping alone; the same bytes on 1, 2 and 3 ranks and after any
# kill; methods of other codes are refused before any work.
# shellcheck source=tuning_common.sh
. "$(dirname "$0")/tuning_common.sh"
base=("${common[@]:0:4}" --calibration-sequences 24 --calibration-context 128 --method bitdistiller --bits 2)
options=("${base[@]}" --tune-phases weights --tune-passes 2)
divergence() { "$VORONOI" eval --model "$1" --text "$evaluation_text" --context 128 --windows 6 --kl --json 2>/dev/null | grep '"metric":"kl"' | sed -n 's/.*"value":\([^,}]*\).*/\1/p'; }

expect 0 ranks 1 quantize --run "$work/reference" "${options[@]}"
expect 0 "$VORONOI" verify "$work/reference"
before=$(ended "$work/reference" weights first_loss) after=$(ended "$work/reference" weights best_loss)
less "$after" "$before" || fail "held-out loss $before before, $after after"
[ "$(find "$work/reference/layers" -name "*_proj.g1.h5" | wc -l)" = "$n_linears" ] || fail "not $n_linears linears of generation 1"
[ "$(find "$work/reference/tuning" -name "codes.block_*" | wc -l)" = 0 ] || fail "weights were left"
if [ "$kind" = trained ]; then
  expect 0 ranks 2 quantize --run "$work/untuned" "${base[@]}"
  trained=$(divergence "$work/reference") clipped=$(divergence "$work/untuned")
  awk -v a="$trained" -v b="$clipped" 'BEGIN { exit !(a > 0 && a < 0.7 * b) }' || fail "divergence $clipped when clipped, $trained when trained"
fi
for n in 2 3; do
  expect 0 ranks $n quantize --run "$work/ranks$n" "${options[@]}"
  same_layers "$work/reference" "$work/ranks$n"
done

# Killed in its steps and while it publishes, on another number of ranks then.
interrupted=0
for at in "points weights 2" "records layer $((n_linears + 8))"; do
  run="$work/killed"
  rm -rf "$run"
  if killed "$run" "$at" "${options[@]}"; then interrupted=$((interrupted + 1)); fi
  expect 0 ranks 3 quantize --run "$run" "${options[@]}"
  same_layers "$work/reference" "$run"
done
[ $interrupted -ge 1 ] || fail "no run was caught alive"
# Stopped on request; with a block's weights lost it begins anew, to the same bytes.
run=$work/stopped
start_held "rename tuning/weights.h5 2" "$work/stderr" "$VORONOI" quantize --run "$run" "${options[@]}"
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
cp -r "$run" "$work/lost"
expect 0 ranks 2 quantize --run "$run" "${options[@]}"
! grep -q "begins anew" "$work/stderr" || fail "what was kept is not gone on from"
same_layers "$work/reference" "$run"
find "$work/lost/tuning" -name "codes.block_001*" -delete
expect 0 ranks 2 quantize --run "$work/lost" "${options[@]}"
grep -q "codes.block_001.*tuning begins anew" "$work/stderr" || fail "no word of the lost weights"
same_layers "$work/reference" "$work/lost"
# A lost layer comes back from the state of the end.
rm "$run/layers/model.layers.1.mlp.down_proj.g1.h5"
expect 0 ranks 1 quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"

# Behind the codes of an error feedback, in the order of its columns; a rate that runs away goes back to what was found.
expect 0 ranks 2 quantize --run "$work/gptq" "${base[@]:0:8}" --method gptq --group-grid original --bits 3 --tune-phases weights
less "$(ended "$work/gptq" weights best_loss)" "$(ended "$work/gptq" weights first_loss)" || fail "gptq: the held-out loss does not fall"
expect 0 ranks 1 quantize --run "$work/away" "${base[@]}" --tune-phases weights --tune-learning-rate 1
grep -q '"end":"diverged"\|"end":"no gain"\|"fallbacks":[1-9]' "$work/away/journal.log" || fail "nothing is journalled of a rate that is too large"
expect 2 ranks 1 quantize --run "$work/refused" "${base[@]:0:8}" --method vptq --tune-phases weights
grep -q "trains the weights behind uniform codes" "$work/stderr" || { cat "$work/stderr"; fail "no word of the codes that are wanted"; }
[ ! -e "$work/refused" ] || fail "a run was begun that is refused"
expect 2 "$VORONOI" plan --model llama-3.1-70b --method bitdistiller --bits 2 --tune-phases weights --ranks 2 --node-memory 256GiB
grep -q "weights" "$work/stderr" || { cat "$work/stderr"; fail "no word of the memory that training takes"; }
