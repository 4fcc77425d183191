#!/usr/bin/env bash
# Tuning: the held-out loss falls; the same bytes on 1, 2 and 3 ranks and after any kill; the export is the tuned model; bad text and settings.
# shellcheck source=tuning_common.sh
. "$(dirname "$0")/tuning_common.sh"
base=("${common[@]:0:4}" --calibration-sequences 24 --calibration-context 128 --method vptq --centroids 256)
phases=(--tune-phases "block,end-to-end")
options=("${base[@]}" "${phases[@]}" --tune-passes 2)

expect 0 ranks 1 quantize --run "$work/reference" "${options[@]}"
expect 0 "$VORONOI" verify "$work/reference"
before=$(ended "$work/reference" end-to-end first_loss) after=$(ended "$work/reference" end-to-end best_loss)
less "$after" "$before" || fail "end to end: held-out loss $before before, $after after"
[ "$(ended "$work/reference" block end | wc -l)" = $((n_linears / 7)) ] || fail "not every block was tuned"
# Every linear in three generations, the final norm in one of its own.
for generation in "" .g1 .g2; do
  [ "$(find "$work/reference/layers" -name "*_proj$generation.h5" | wc -l)" = "$n_linears" ] || fail "not $n_linears linears of generation '$generation'"
done
[ -e "$work/reference/layers/model.norm.weight.g1.h5" ] || fail "no final norm"

# It is what evaluation, export (which rounds the embedding of this F32 model too) and all ranks see.
expect 0 ranks 1 quantize --run "$work/untuned" "${base[@]}"
cp -r "$work/untuned" "$work/added"
tuned=$(perplexity "$work/reference") untuned=$(perplexity "$work/untuned") exported=$(perplexity "$work/reference/export")
if [ "$kind" = trained ]; then less "$tuned" "$untuned" || fail "perplexity $untuned before, $tuned after"; fi
awk -v a="$tuned" -v b="$exported" 'BEGIN { exit !((a - b) ^ 2 < (1e-3 * b) ^ 2) }' || fail "run $tuned, export $exported"
for n in 2 3; do
  expect 0 ranks $n quantize --run "$work/ranks$n" "${options[@]}"
  same_layers "$work/reference" "$work/ranks$n"
done
# A run that was made without tuning takes it later.
expect 0 ranks 2 quantize --run "$work/added" "${options[@]}"
same_layers "$work/reference" "$work/added"
# Another seed takes the sequences in another order: the comparison above can fail.
expect 0 ranks 1 quantize --run "$work/seed" "${options[@]}" --seed 1
! diff -rq "$work/reference/layers" "$work/seed/layers" >/dev/null || fail "the seed changes nothing"

# Killed in a block, between phases, in the steps of the second, while it publishes; on another number of ranks then. At any other place:
# faults.crash_tuning.
interrupted=0
for at in "records tuning_point 2" "records layer $((2 * n_linears))" "points end-to-end 3" "records layer $((2 * n_linears + 8))"; do
  run="$work/killed"
  rm -rf "$run"
  if killed "$run" "$at" "${options[@]}"; then interrupted=$((interrupted + 1)); fi
  expect 0 ranks 3 quantize --run "$run" "${options[@]}"
  same_layers "$work/reference" "$run"
done
[ $interrupted -ge 3 ] || fail "only $interrupted of 4 runs were caught alive"

# A stop on request keeps the step; the rest is done by the same command.
run=$work/stopped
start_held "rename tuning/end-to-end 2" "$work/stderr" "$VORONOI" quantize --run "$run" "${options[@]}"
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
expect 0 ranks 2 quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"

# A lost layer of a tuned generation comes back from the state that was kept, a damaged state is made again.
rm "$run/layers/model.layers.1.mlp.down_proj.g2.h5"
expect 0 ranks 1 quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"
rm "$run/layers/model.layers.1.mlp.down_proj.g2.h5"
truncate -s 1000 "$run/tuning/end-to-end.h5"
expect 0 ranks 1 quantize --run "$run" "${options[@]}"
grep -q "end-to-end.h5.*tuning begins anew" "$work/stderr" || fail "no word of the damaged state"
same_layers "$work/reference" "$run"

# Codes move in a third phase: the held-out loss falls below that of the second, on any number of ranks, after kills in its steps and while it
# publishes, with buffers lost, and over a run that was tuned without.
moving=("${base[@]}" --tune-phases "block,end-to-end,codes" --tune-passes 2)
cp -r "$work/reference" "$work/moved"
expect 0 ranks 1 quantize --run "$work/moved" "${moving[@]}"
expect 0 "$VORONOI" verify "$work/moved"
after=$(ended "$work/reference" end-to-end best_loss) moved=$(ended "$work/moved" codes best_loss)
[ "$(ended "$work/moved" codes first_loss)" = "$after" ] || fail "codes: $(ended "$work/moved" codes first_loss) before, the phase before left $after"
less "$moved" "$after" || fail "codes: held-out loss $after before, $moved after"
[ "$(find "$work/moved/layers" -name "*_proj.g3.h5" | wc -l)" = "$n_linears" ] || fail "not $n_linears linears of generation 3"
[ "$(find "$work/moved/tuning" -name "codes.block_*" | wc -l)" = 0 ] || fail "buffers were left"
for at in "points codes 3" "records layer $((3 * n_linears + 8))"; do
  run="$work/killed_codes"
  rm -rf "$run"
  cp -r "$work/reference" "$run"
  killed "$run" "$at" "${moving[@]}" || true
  expect 0 ranks 3 quantize --run "$run" "${moving[@]}"
  same_layers "$work/moved" "$run"
done
run=$work/stopped_codes
cp -r "$work/reference" "$run"
start_held "rename tuning/codes.h5 2" "$work/stderr" "$VORONOI" quantize --run "$run" "${moving[@]}"
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
find "$run/tuning" -name "codes.block_001*" -delete
expect 0 ranks 2 quantize --run "$run" "${moving[@]}"
grep -q "codes.block_001.*tuning begins anew" "$work/stderr" || fail "no word of the lost buffers"
same_layers "$work/moved" "$run"

# Layers between rotations gain factors, which count: the held-out loss falls in both phases, on any number of ranks alike. In bf16, by whatever
# unit computes it; another type of products is another run.
turned=("${base[@]:0:8}" --method trellis --bits 2 --state-bits 12 --hessian plain --trellis-sweeps 0)
narrow=("${phases[@]}" --tune-dtype bf16)
expect 0 ranks 1 quantize --run "$work/turned" "${turned[@]}" "${narrow[@]}"
expect 0 "$VORONOI" verify "$work/turned"
less "$(ended "$work/turned" end-to-end best_loss)" "$(ended "$work/turned" end-to-end first_loss)" || fail "trellis: the held-out loss does not fall"
ls "$work/turned/layers/"*q_proj.g2.h5 >/dev/null || fail "trellis: no second generation"
expect 0 ranks 2 quantize --run "$work/turned2" "${turned[@]}"
killed "$work/turned2" "points end-to-end 3" "${turned[@]}" "${narrow[@]}" || true
VORONOI_BF16_UNIT=portable expect 0 ranks 2 quantize --run "$work/turned2" "${turned[@]}" "${narrow[@]}"
same_layers "$work/turned" "$work/turned2"
expect 2 ranks 1 quantize --run "$work/turned2" "${turned[@]}" "${phases[@]}" --tune-dtype f32
grep -q "other text or settings" "$work/stderr" || { cat "$work/stderr"; fail "no word of the other type of products"; }
expect 2 ranks 1 quantize --run "$work/turned2" "${turned[@]}" --tune-phases end-to-end,codes
grep -q "codes of --method trellis stay" "$work/stderr" || { cat "$work/stderr"; fail "no word of codes that do not move"; }

# Bad settings and texts.
expect 2 ranks 1 quantize --run "$run" "${base[@]}" "${phases[@]}" --tune-passes 3
grep -q "other text or settings" "$work/stderr" || { cat "$work/stderr"; fail "no word of the other settings"; }
expect 2 ranks 1 quantize --run "$work/bad" "${common[@]}" --tune-phases end-to-end --tune-tokens 128
grep -q "one has to be held out" "$work/stderr" || { cat "$work/stderr"; fail "no word of the held-out sequence"; }
expect 2 ranks 1 quantize --run "$work/bad" "${common[@]}" --tune-phases end-to-end --tune-tokens 100000000
grep -q "are asked for" "$work/stderr" || { cat "$work/stderr"; fail "no word of the short text"; }
head -c 60 "$calibration_text" >"$work/short.txt"
expect 3 ranks 1 quantize --run "$work/bad" "${common[@]}" --tune-phases end-to-end --tune-text "$work/short.txt"
grep -q "short.txt.*less than one window" "$work/stderr" || { cat "$work/stderr"; fail "no word of the short text"; }
expect 2 ranks 1 quantize --run "$run" "${base[@]}" --tune-phases end-to-end --tune-passes 2
grep -q "tuned by other phases" "$work/stderr" || { cat "$work/stderr"; fail "no word of the other phases"; }
expect 2 ranks 1 quantize --run "$work/bad" "${common[@]}" --stages tune
# A rate that runs away: back to the best, which is the untuned model, and the run ends well.
expect 0 ranks 1 quantize --run "$work/untuned" "${base[@]}" --tune-phases end-to-end --tune-learning-rate 1
grep -q "ran away" "$work/stderr" || { cat "$work/stderr"; fail "no word of the loss that ran away"; }
grep -q '"end":"diverged"\|"fallbacks":[1-9]' "$work/untuned/journal.log" || fail "the fallback is not journalled"
