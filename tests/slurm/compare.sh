#!/usr/bin/env bash
# slurm/compare.sbatch: a table of two methods at two bits as one job of two nodes, which is told to stop early and puts itself back into the
# queue; its runs have the bytes of runs of their own.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
# A run with more work, so that it can be caught.
printf 'method = voronoi\nresidual-centroids = 256\nrounds = 40\ncandidates = 16\n' >"$work/voronoi.cfg"
out=$work/out
job=$(slurm sbatch --parsable -N 2 --ntasks-per-node=1 -c 1 "$ROOT/slurm/compare.sbatch" "$work/model" "$out" --methods rtn,gptq --bits 2,3 \
  --member "$work/voronoi.cfg" "${calibration[@]}" --hessian-window 5 --text "$work/evaluation.txt" --context 512 --windows 4)
wait_for 120 has_layers "$out/voronoi" 2
signal_ranks STOP "${hosts[@]}"
[ -n "$(ranks "${hosts[@]}")" ] && ! finished "$out" || fail "the job came to its end before it could be disturbed"
slurm scancel -b -s USR1 "$job"
wait_for 20 asked_to_stop
release ""
wait_for 60 grep -q '"type":"stopped"' "$out/journal.log"
wait_for 200 job_gone "$job"
completed "$job"
cat "$out/compare.md"
for run in rtn-2bit rtn-3bit gptq-2bit gptq-3bit voronoi; do
  grep -q "^| $run |" "$out/compare.md" || fail "$run is not in the table"
  finished "$out/$run" || fail "$run did not finish"
  [ "$(layers_done "$out/$run")" = "$n_linears" ] || fail "layers of $run were made again"
done
[ "$(starts "$out")" = 2 ] || fail "the job was started $(starts "$out") times instead of twice"
[ -f "$out/report/report.md" ] || fail "no report"
"$VORONOI" quantize --model "$work/model" --run "$work/alone" "${calibration[@]}" --config "$work/voronoi.cfg" >"$work/stdout" 2>&1 || {
  cat "$work/stdout"
  fail "no run to compare with"
}
diff -rq "$work/alone/layers" "$out/voronoi/layers" || fail "voronoi differs from a run of its own"
passed "a table of five runs as one job, requeued once"
