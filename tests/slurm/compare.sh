#!/usr/bin/env bash
# slurm/compare.sbatch: one calibration, an array of methods x bits on it, an array of evaluations, the report behind them.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
# More work for voronoi, so that its task can be caught; rtn does not look at it.
calibration+=(--rounds 60 --candidates 16)
VORONOI_SBATCH="-N 1 -n 2" slurm "$ROOT/slurm/compare.sbatch" "$work/model" "$work/out" "rtn voronoi" "2 3" "${calibration[@]}" \
  -- --text "$work/evaluation.txt" --join wikitext --context 512 --windows 4 >"$work/jobs"
cat "$work/jobs"
# One task of the array is told to stop early; it alone is started again.
quantize=$(sed 's/.*quantize \([0-9]*\).*/\1/' "$work/jobs")
hold "$work/out/voronoi-3bit" 2
slurm scancel -b -s USR1 "${quantize}_3"
wait_for 20 asked_to_stop
release ""
no_jobs() { [ -z "$(slurm squeue -h)" ]; }
wait_for 200 no_jobs
table=$work/out/report/report.md
[ -f "$table" ] || fail "no report"
head -n 12 "$table"
for row in rtn-2bit rtn-3bit voronoi-2bit voronoi-3bit; do
  grep -q "$row" "$table" || fail "$row is not in the table"
  finished "$work/out/$row" || fail "$row did not finish"
  wanted=1
  if [ $row = voronoi-3bit ]; then wanted=2; fi
  [ "$(starts "$work/out/$row")" = $wanted ] || fail "$row was started $(starts "$work/out/$row") times instead of $wanted"
done
# The shared Hessians give what a run would compute itself.
expected=$work/alone
"$VORONOI" quantize --model "$work/model" --run "$expected" --config "$ROOT/configs/voronoi-3bit.cfg" "${calibration[@]}" >"$work/stdout" 2>&1 || {
  cat "$work/stdout"
  fail "no run to compare with"
}
diff -rq "$expected/layers" "$work/out/voronoi-3bit/layers" || fail "voronoi-3bit differs from a run of its own"
passed "a table of 2 x 2 with its report"
