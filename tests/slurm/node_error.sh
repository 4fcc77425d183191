#!/usr/bin/env bash
# A job whose program ends with an error of its node (74) goes on on another; one that fails everywhere ends with a word. With a false
# program, on a real Slurm.
# shellcheck disable=SC2016  # variables of the node
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
cluster=$ROOT/tests/slurm/cluster
work=$(mktemp -d /tmp/voronoi-slurm-XXXXXX)
chmod 755 "$work"  # munge wants it
# shellcheck disable=SC2154
trap 'code=$?; case $code in 0 | 77) ;; *) tail -n 30 "$work"/log-* || true ;; esac; "$cluster" down "$work/cluster" || true; rm -rf "$work"; exit $code' EXIT
trap 'exit 143' TERM INT
fail() { echo "FAILED: $*"; exit 1; }
"$cluster" up "$work/cluster" 2
export VORONOI_CLUSTER=$work/cluster
cd "$work"
printf '#!/bin/bash\n#SBATCH --requeue --open-mode=append --output=log-%%j\nexec %s/slurm/launch "$1" "$2" "$1"\n' "$ROOT" >job
# The node that the run meets first is the bad one; or all are.
printf '#!/bin/bash\n[ "$1" != --version ] || exit 0\nif [ ! -e "$1.bad" ]; then echo "$SLURMD_NODENAME" >"$1.bad"; fi\necho "$SLURMD_NODENAME" >>"$1.nodes"
grep -q -x -e "$SLURMD_NODENAME" -e all "$1.bad" && exit 74\nexit 0\n' >program
chmod +x program
echo all >"$work/everywhere.bad"
declare -A jobs
for run in one everywhere; do jobs[$run]=$("$cluster" on n0 sbatch --parsable -N 1 -n 1 job "$work/$run" "$work/program"); done
for run in one everywhere; do
  end=$((SECONDS + 120))
  while [ -n "$("$cluster" on n0 squeue -h -j "${jobs[$run]}" -o %T 2>/dev/null)" ]; do
    [ $SECONDS -lt $end ] || fail "$run is not over"
    sleep 0.2
  done
done
[ "$(wc -l <one.nodes) $(sort -u one.nodes | wc -l)" = "2 2" ] || fail "the job went to $(tr '\n' ' ' <one.nodes)instead of to another node"
grep -q 'restart 1: exit code 0, again: no' "log-${jobs[one]}" || fail "the job did not end well"
[ "$(wc -l <everywhere.nodes)" = 3 ] || fail "the other job ran $(wc -l <everywhere.nodes) times"
grep -q 'two restarts in a row brought the run no further' "log-${jobs[everywhere]}" || fail "no word of why it ended"
echo "ok after $SECONDS s"
