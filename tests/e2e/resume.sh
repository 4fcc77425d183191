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
"$VORONOI" quantize --run "$run" "${options[@]}" >/dev/null 2>"$work/stderr" &
pid=$!
hold "$run" has_begun "$run" || fail "it was over before it could be stopped"
kill -USR1 $pid
release "$run"
code=0
wait $pid || code=$?
[ $code = 75 ] || { cat "$work/stderr"; fail "exit $code instead of 75 after SIGUSR1"; }
grep -q "run the same command again" "$work/stderr" || fail "no word on how to resume"
expect 0 ranks 2 quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"

# A damaged shard is found, set aside and made again.
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
# Two runs at once on one directory: the second is refused.
exec 9<>"$run/lock.json"
flock -x 9
expect 5 "$VORONOI" quantize --run "$run" "${options[@]}"
exec 9>&-
