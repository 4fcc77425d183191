#!/usr/bin/env bash
# A run that is killed or told to stop at any moment resumes, on another number of ranks, to the bytes of an undisturbed run.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
seed=${VORONOI_TEST_SEED:-1}
RANDOM=$seed
echo "seed $seed"
options=("${common[@]}" --method voronoi --residual-centroids 16 --rounds 8 --hessian-window 2)
expect 0 ranks 2 quantize --run "$work/reference" "${options[@]}"

interrupted=0 partial=0
for round in 1 2 3 4 5 6; do
  run=$work/killed$round
  n=$((RANDOM % 3 + 1))
  timeout -k 5 120 mpirun --bind-to none -n $n "$VORONOI" quantize --run "$run" "${options[@]}" >/dev/null 2>&1 &
  launcher=$!
  # Once so many layers are journalled; the first round kills before there is any.
  if hold "$run" has_layers "$run" $(((round - 1) * 5)); then
    mapfile -t victims < <(ranks_of "$run")
    kill -9 "${victims[$((RANDOM % ${#victims[@]}))]}"
    release "$run"
    interrupted=$((interrupted + 1))
  fi
  started=$SECONDS
  wait $launcher || true
  [ $((SECONDS - started)) -le 10 ] || fail "the job hung for $((SECONDS - started)) s after a rank was killed"
  done_before=$(layers_done "$run")
  if [ "${done_before:-0}" -gt 0 ] && [ "${done_before:-0}" -lt "$n_linears" ]; then partial=$((partial + 1)); fi
  expect 0 ranks $((RANDOM % 3 + 1)) quantize --run "$run" "${options[@]}"
  same_layers "$work/reference" "$run"
  expect 0 "$VORONOI" verify "$run"
  # What was journalled before is not made again: each layer stands once in the journal.
  [ "$(grep -c '"type":"layer"' "$run/journal.log")" = "$n_linears" ] || fail "round $round: finished layers were made again"
  echo "round $round: $n ranks, ${done_before:-0} layers before the resume"
done
[ $interrupted -ge 4 ] || fail "only $interrupted of 6 runs were caught alive"
[ $partial -ge 2 ] || fail "only $partial of 6 runs were caught with some layers done"

# A stop on request: exit 75, then the rest.
run=$work/stopped
start_held "rename layers/ 2" "$work/stderr" "$VORONOI" quantize --run "$run" "${options[@]}"
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
grep -q "run the same command again" "$work/stderr" || fail "no word on how to resume"
expect 0 ranks 2 quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"

# What tokens count is on disk chunk by chunk: a start takes what a killed one left, sets aside what is damaged, and leaves nothing behind.
guided=("${common[@]}" --method voronoi --rounds 1 --hessian guided --hessian-groups 2 --hessian-window 2)
expect 0 ranks 2 quantize --run "$work/guided-reference" "${guided[@]}"
run=$work/guided
start_held "rename hessians/ 13" "$work/stderr" "$VORONOI" quantize --run "$run" "${guided[@]}"
[ "$(find "$run/hessians" -name 'tokens_*' | wc -l)" = 12 ] || fail "not every chunk's tokens are on disk"
kill -9 $pid
go_on
wait $pid || true
rm "$run/hessians/tokens_0003.h5"
head -c 1000 "$run/hessians/tokens_0005.h5" >"$work/cut" && cp "$work/cut" "$run/hessians/tokens_0005.h5"
expect 0 ranks 3 quantize --run "$run" "${guided[@]}"
grep -q "tokens_0005.h5.*made again" "$work/stderr" || fail "no word of the damaged file"
same_layers "$work/guided-reference" "$run"
[ -z "$(ls "$run/hessians")" ] || fail "token weights were left behind"

# A scale that all linears of a site share comes out the same where the others are there already.
shared=("${common[@]}" --method awq --bits 3)
expect 0 ranks 2 quantize --run "$work/shared-reference" "${shared[@]}"
cp -r "$work/shared-reference" "$work/shared"
lost=("$work"/shared/layers/*1.self_attn.k_proj*)
rm "${lost[@]}"
expect 0 ranks 1 quantize --run "$work/shared" "${shared[@]}"
same_layers "$work/shared-reference" "$work/shared"

# With sequential calibration a start takes up both streams, the quantized blocks' and the original ones', where it goes on.
asymmetric=("${common[@]}" --method gptq --bits 2 --calibration sequential --target asymmetric)
expect 0 ranks 2 quantize --run "$work/asymmetric-reference" "${asymmetric[@]}"
run=$work/asymmetric
start_held "rename layers/ 12" "$work/stderr" "$VORONOI" quantize --run "$run" "${asymmetric[@]}"
kill -9 $pid
go_on
wait $pid || true
expect 0 ranks 3 quantize --run "$run" "${asymmetric[@]}"
same_layers "$work/asymmetric-reference" "$run"
[ -z "$(ls "$run/hessians")" ] || fail "Hessians were left behind"
expect 0 ranks 2 quantize --run "$work/symmetric" "${common[@]}" --method gptq --bits 2 --calibration sequential
! diff -rq "$work/symmetric/layers" "$run/layers" >/dev/null || fail "asymmetric targets change nothing"
expect 2 "$VORONOI" quantize --run "$run" "${asymmetric[@]::${#asymmetric[@]}-1}" plain

# A stop within a block of calibration, asked for on one of the ranks: nothing of the block is kept, the rest is done by the same command.
python3 "$support/random_model.py" "$work/wide" hidden_size=512 intermediate_size=2048 num_attention_heads=8
wide=(--model "$work/wide" --calibration-text "$calibration_text" --calibration-sequences 48 --calibration-context 128 --method gptq --bits 4)
expect 0 ranks 2 quantize --run "$work/wide-reference" "${wide[@]}"
for n in 1 2; do
  run=$work/wide-stopped$n
  timeout -k 5 120 mpirun --bind-to none -n $n "$VORONOI" quantize --run "$run" "${wide[@]}" >/dev/null 2>"$work/stderr" &
  pid=$!
  # The first word of a run is that its first block has begun; it takes a second or more.
  hold "$run" test -s "$run/status.json" || fail "over before it was held"
  grep -q '"doing":"block 1/2"' "$run/status.json" || fail "held elsewhere than in the first block"
  kill -USR1 "$(ranks_of "$run" | tail -n 1)"
  release "$run"
  ends 75 "$work/stderr"
  [ -z "$(ls "$run/hessians")" ] || fail "the block went on to its end"
  expect 0 ranks $((3 - n)) quantize --run "$run" "${wide[@]}"
  same_layers "$work/wide-reference" "$run"
done

# From its directory alone: started with relative paths, stopped, resumed from another directory by the command that status prints.
run=$work/alone
mkdir "$work/elsewhere"
cd "$work"
start_held "rename layers/ 2" "$work/stderr" "$VORONOI" quantize --run alone --model model --calibration-text calibration.txt "${options[@]:4}"
cd - >/dev/null
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
grep -qF "voronoi quantize --run $run" "$work/stderr" || fail "no command to resume with"
expect 0 "$VORONOI" status "$run"
command=$(sed -n 's/^  resume  voronoi //p' "$work/stdout")
[ "$command" = "quantize --run $run" ] || fail "status tells another command: $command"
cd "$work/elsewhere"
# shellcheck disable=SC2086  # no path has a blank
expect 0 "$VORONOI" $command
cd - >/dev/null
same_layers "$work/reference" "$run"
# What a resume may not change is the error that it always was; a command that names model and texts stands for itself.
expect 2 "$VORONOI" quantize --run "$run" --centroids 128
grep -q "centroids: was 256, is 128" "$work/stderr" || { cat "$work/stderr"; fail "the difference is not named"; }
expect 2 "$VORONOI" quantize --run "$run" "${common[@]}"
grep -q "residual-centroids: was 16, is 0" "$work/stderr" || { cat "$work/stderr"; fail "a whole command took options of an earlier start"; }
# What it may change; the model has moved.
mv "$work/model" "$work/moved"
rm "$run/layers/$(ls "$run/layers" | head -n 1)"
expect 0 ranks 2 quantize --run "$run" --model "$work/moved" --keep-hessians
same_layers "$work/reference" "$run"
mv "$work/moved" "$work/model"
# A run of no start that tells its options, and of another version of the program.
rewrite() {
  python3 - "$run/journal.log" "$@" <<'PYTHON'
import hashlib, json, sys
out = []
for number, line in enumerate(open(sys.argv[1]), 1):
    record = json.loads(line.split(" ", 2)[2])
    if record["type"] == "start":
        record.pop(sys.argv[2])
        if len(sys.argv) > 3:
            record[sys.argv[2]] = sys.argv[3]
    payload = f"{number} {json.dumps(record)}"
    out.append(f"{number} {hashlib.sha256(payload.encode()).hexdigest()[:16]} {json.dumps(record)}\n")
open(sys.argv[1], "w").write("".join(out))
PYTHON
}
rewrite version 0.0.9
expect 0 "$VORONOI" quantize --run "$run" --model "$work/model"
grep -q "made by version 0.0.9, this is version [0-9]" "$work/stderr" || { cat "$work/stderr"; fail "no word of another version"; }
rewrite options
expect 2 "$VORONOI" quantize --run "$run"
grep -q "does not tell the options" "$work/stderr" || { cat "$work/stderr"; fail "no word of the missing options"; }

# A damaged shard is found, set aside and made again.
run=$work/stopped
victim=$(ls "$run/layers" | head -n 1)
printf 'x' | dd of="$run/layers/$victim" bs=1 seek=2000 conv=notrunc status=none
expect 3 "$VORONOI" verify "$run"
grep -q "$victim" "$work/stdout" || fail "verify does not name the damaged file"
expect 0 ranks 1 quantize --run "$run" "${options[@]}"
grep -q "will be made again" "$work/stderr" || fail "no word of the damaged shard"
same_layers "$work/reference" "$run"
[ -n "$(ls "$run/quarantine")" ] || fail "nothing in quarantine"

# Other settings on the same directory are refused, with the difference.
expect 2 "$VORONOI" quantize --run "$run" "${common[@]}" --method voronoi --centroids 128
grep -q "centroids: was 256, is 128" "$work/stderr" || { cat "$work/stderr"; fail "the difference is not named"; }
# Stages: what one needs must have come to its end; names are checked.
expect 2 "$VORONOI" quantize --run "$work/none" "${common[@]}" --stages calibrate,quantise
grep -q "'quantise' is no stage; there are calibrate, allocate, quantize, tune, validate, export, report" "$work/stderr" || { cat "$work/stderr"; fail "no word of the stage"; }
expect 2 "$VORONOI" quantize --run "$work/none" "${common[@]}" --method vptq --stages export
grep -q "export needs quantize" "$work/stderr" || { cat "$work/stderr"; fail "no word of what export needs"; }
# Two runs at once on one directory: the second is refused.
exec 9<>"$run/lock.json"
flock -x 9
expect 5 "$VORONOI" quantize --run "$run" "${options[@]}"
exec 9>&-
