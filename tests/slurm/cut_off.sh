#!/usr/bin/env bash
# A node is cut off the network, but not off the file system, and goes on computing after the job has been started again elsewhere and has
# come to its end: it cannot publish anything any more. Once with a node that only computes, once with the one that holds lock, journal and
# coordinator. Its processes are stopped meanwhile, so that they wake up in the middle of a task when the successor is done.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
# Open MPI's own watchdog would end the cut-off processes; here they have to live.
export OMPI_MCA_oob_tcp_keepalive_time=600

names_and_files() { ls -i "$1/layers" "$1/hessians"; md5sum "$1/journal.log" "$1/report/report.json"; }
refused() { grep -q "superseded" "$run/logs/rank_000$rank.log"; }
no_rank_on() { [ -z "$(ranks "$1")" ]; }

for n in 2 1; do
  rank=$((n - 1))
  # A rank that was stopped between two tasks has nothing to publish and proves nothing.
  for try in 1 2 3; do
    run=$work/cut-$n-$try
    job=$(submit "$run" -N 2 --ntasks-per-node=1)
    hold "$run" 4
    victim=$(host_of "$job" $n)
    [ -n "$(ranks "$victim")" ] || fail "the job does not run on $victim"
    "$cluster" cut "$victim"
    before=$(layers_done "$run")
    release "$victim"
    wait_for 150 job_gone "$job"
    completed "$job"
    finished "$run" || fail "the successor did not finish"
    [ -n "$(ranks "$victim")" ] || fail "the cut-off rank is gone: nothing was tried"
    names_and_files "$run" >"$work/before"
    signal_ranks CONT "$victim"
    end=$((SECONDS + 20))
    until refused || [ $SECONDS -gt $end ]; do sleep 0.1; done
    names_and_files "$run" >"$work/after"
    diff "$work/before" "$work/after" || fail "the cut-off node changed the run"
    same_as_reference "$run"
    if refused; then break; fi
    echo "the rank on $victim was between two tasks; again"
    signal_ranks KILL "$victim"
    # That of the round before as well: the next try wants two nodes and a successor's two.
    for host in "${hosts[@]}"; do "$cluster" join "$host"; done
    wait_for 120 all_nodes_idle
  done
  refused || fail "the rank on $victim never tried to publish"
  wait_for 20 no_rank_on "$victim"
  if [ $n = 1 ]; then
    grep -q "took over the lock of .* on $victim .*Slurm has requeued that job since" "$work/voronoi-$job.log" || fail "no word of the lock"
  fi
  passed "node $n of 2 ($victim) was cut off after $before layers; its rank was refused when it came back"
done
# Back on the network, what is left of the old job ends, and the run stays as it is.
for host in "${hosts[@]}"; do "$cluster" join "$host"; done
wait_for 120 all_nodes_idle
names_and_files "$run" >"$work/after"
diff "$work/before" "$work/after" || fail "the node that came back changed the run"
passed "nodes back in service"
