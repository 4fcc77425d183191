#!/usr/bin/env bash
# Jobs of two nodes finish, put themselves back into the queue when they are told to stop early, and leave a resumable run when they are
# cancelled; with either launcher. The bytes are those of an undisturbed run.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

for launcher in mpirun srun; do
  export VORONOI_LAUNCHER=$launcher
  run=$work/$launcher
  job=$(submit "$run" -N 2 --ntasks-per-node=1 -c 1)
  hold "$run" 4
  # Unlike the one before the time limit, this signal comes at once.
  slurm scancel -b -s USR1 "$job"
  wait_for 20 asked_to_stop
  release ""
  wait_for 60 grep -q '"type":"stopped"' "$run/journal.log"
  before=$(layers_done "$run")
  [ "$before" -lt "$n_linears" ] || fail "the job was not stopped early"
  wait_for 120 job_gone "$job"
  completed "$job"
  [ "$(starts "$run")" = 2 ] || fail "$launcher: $(starts "$run") starts instead of 2"
  [ "$(grep -c '"type":"start".*"ranks":2' "$run/journal.log")" = 2 ] || fail "$launcher: not on two ranks"
  [ "$(layers_done "$run")" = "$n_linears" ] || fail "$launcher: finished layers were made again"
  grep -q '"type":"task_done".*"rank":1' "$run/journal.log" || grep -q '"rank":1.*"type":"task_done"' "$run/journal.log" || fail "$launcher: the second rank did nothing"
  grep -q 'exit code 75, again: yes' "$work/voronoi-$job.log" || fail "$launcher: exit code 75 did not reach the script"
  grep -q 'exit code 0, again: no' "$work/voronoi-$job.log" || fail "$launcher: the log was not appended to"
  for restart in 0 1; do
    grep -q '^nodes: n\[1-2\]' "$run/logs/environment.$job.$restart.txt" || fail "$launcher: no record of the environment"
  done
  same_as_reference "$run"
  passed "two nodes under $launcher, stopped after $before layers, requeued and finished"
done
unset VORONOI_LAUNCHER

run=$work/cancelled
job=$(submit "$run" -N 2 --ntasks-per-node=1 -c 1)
hold "$run" 4
slurm scancel "$job"
release ""
wait_for 60 job_gone "$job"
! finished "$run" || fail "the job came to its end before it was cancelled"
[ "$(state_of "$job")" = CANCELLED ] || fail "the cancelled job is $(state_of "$job")"
[ -z "$(ranks "${hosts[@]}")" ] || fail "ranks of the cancelled job are left"
before=$(layers_done "$run")
code=0
slurm sbatch --wait --parsable -N 1 -n 2 "$ROOT/slurm/quantize.sbatch" "$work/model" "$run" "${options[@]}" || code=$?
[ $code = 0 ] || fail "the resumed job ended with $code"
[ "$(layers_done "$run")" = "$n_linears" ] || fail "finished layers were made again"
same_as_reference "$run"
passed "cancelled after $before layers, resumed on one node"

# Bad settings are final: no requeue, and the code comes through.
code=0
slurm sbatch --wait --parsable -N 2 --ntasks-per-node=1 "$ROOT/slurm/quantize.sbatch" "$work/model" "$work/bad" "${options[@]}" --centroids 200 || code=$?
[ $code = 2 ] || fail "exit $code instead of 2 for bad settings"
passed "bad settings end the job with 2"

# A directory of somebody else is refused and stays as it is.
mkdir "$work/precious"
touch "$work/precious/thesis.tex"
code=0
slurm sbatch --wait --parsable -n 1 "$ROOT/slurm/quantize.sbatch" "$work/model" "$work/precious" "${options[@]}" || code=$?
[ $code = 2 ] || fail "exit $code instead of 2 for a foreign directory"
[ "$(ls "$work/precious")" = thesis.tex ] || fail "wrote into a foreign directory"
