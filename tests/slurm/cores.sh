#!/usr/bin/env bash
# Cores on a Slurm that binds (task/affinity): the ranks of a node share what the job has there, no two threads on one core. How ranks on
# several NUMA nodes are bound is not seen here: the nodes of this cluster have one of two cores.
# shellcheck source-path=SCRIPTDIR source=common.sh
export VORONOI_TASK_PLUGIN=task/affinity
. "$(dirname "$0")/common.sh"
options=("${calibration[@]}" --method rtn --log-level debug)

# as_rank RUN RANK: its cores and threads, as its log has them.
as_rank() { sed -n 's/.* \([0-9]*\) thread(s), allowed on cores \([0-9,]*\).*/\2 \1/p' "$1/logs/rank_000$2.log"; }
# expect RUN JOB CORES...: a word "CORES THREADS" a rank; "any" stands for one core.
expect() {
  local run=$1 job=$2 rank=0 wanted seen
  shift 2
  completed "$job"
  for wanted in "$@"; do
    seen=$(as_rank "$run" $rank)
    echo "$run rank $rank: $seen"
    [ "${seen/#[01] /any }" = "$wanted" ] || [ "$seen" = "$wanted" ] || fail "$run: rank $rank has '$seen' instead of '$wanted' (cores, threads)"
    rank=$((rank + 1))
  done
  [ ! -e "$run/logs/rank_000$rank.log" ] || fail "$run has more than $rank rank(s)"
}

# srun: a core for each of two ranks.
job=$(VORONOI_LAUNCHER=srun submit srun -N 1 --ntasks-per-node=2 -c 1)
wait_for 60 job_gone "$job"
expect srun "$job" "any 1" "any 1"
[ "$(as_rank srun 0)" != "$(as_rank srun 1)" ] || fail "two ranks have one core"

# mpirun: both ranks may use both cores, and take half of them each.
job=$(submit mpirun -N 1 --ntasks-per-node=2 -c 1)
wait_for 60 job_gone "$job"
expect mpirun "$job" "0,1 1" "0,1 1"

# A rank of its own takes all cores of the job, on both nodes.
job=$(submit wide -N 2 --ntasks-per-node=1 -c 2)
wait_for 60 job_gone "$job"
expect wide "$job" "0,1 2" "0,1 2"

# Two jobs in parts of one node at once: each has a core, and neither that of the other.
first=$(submit part1 -w n1 -n 1 -c 1)
second=$(submit part2 -w n1 -n 1 -c 1)
wait_for 60 job_gone "$first"
wait_for 60 job_gone "$second"
expect part1 "$first" "any 1"
expect part2 "$second" "any 1"
[ "$(as_rank part1 0)" != "$(as_rank part2 0)" ] || fail "two jobs have one core"
passed "ranks share the cores of their job"
