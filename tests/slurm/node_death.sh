#!/usr/bin/env bash
# A node dies with all that runs on it, first one that only computes, then the one with the batch script and the coordinator: the job is put
# back into the queue, goes on without the node, and ends with the bytes of an undisturbed run.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

for n in 2 1; do
  run=$work/death-$n
  job=$(submit "$run" -N 2 --ntasks-per-node=1)
  hold "$run" 4
  victim=$(host_of "$job" $n)
  [ -n "$(ranks "$victim")" ] || fail "the job does not run on $victim"
  "$cluster" kill "$victim"
  before=$(layers_done "$run")
  release ""
  wait_for 150 job_gone "$job"
  completed "$job"
  [ "$(layers_done "$run")" = "$n_linears" ] || fail "finished layers were made again"
  [ "$(starts "$run")" -ge 2 ] || fail "the job was not started again"
  same_as_reference "$run"
  passed "node $n of 2 ($victim) died after $before layers, $(starts "$run") starts"
done
