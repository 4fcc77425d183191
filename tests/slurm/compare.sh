#!/usr/bin/env bash
# slurm/compare.sbatch: one calibration, an array of methods x bits on it, an array of evaluations, the report behind them.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
text=$DATA/wikitext2/wiki.test.raw
[ -f "$text" ] || { echo "SKIP: no WikiText-2"; exit 77; }

VORONOI_SBATCH="-N 1 -n 2" slurm "$ROOT/slurm/compare.sbatch" "$work/model" "$work/out" "rtn voronoi" "2 3" "${calibration[@]}" \
  -- --text "$text" --join wikitext --context 512 --windows 4 >"$work/jobs"
cat "$work/jobs"
no_jobs() { [ -z "$(slurm squeue -h)" ]; }
wait_for 200 no_jobs
table=$work/out/report/report.md
[ -f "$table" ] || fail "no report"
cat "$table"
for row in rtn-2bit rtn-3bit voronoi-2bit voronoi-3bit; do
  grep -q "$row" "$table" || fail "$row is not in the table"
  finished "$work/out/$row" || fail "$row did not finish"
done
# The shared Hessians give what a run would compute itself.
expected=$work/alone
"$VORONOI" quantize --model "$work/model" --run "$expected" --config "$ROOT/configs/voronoi-3bit.cfg" "${calibration[@]}" >"$work/stdout" 2>&1 || {
  cat "$work/stdout"
  fail "no run to compare with"
}
diff -rq "$expected/layers" "$work/out/voronoi-3bit/layers" || fail "voronoi-3bit differs from a run of its own"
passed "a table of 2 x 2 with its report"
