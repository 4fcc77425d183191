# Shared by the tests on a real Slurm: VORONOI (program), DATA (test data, which may be absent), ROOT (project) come from ctest. Skips (77)
# with the reason where packages or rights are missing. Leaves no process, mount or namespace behind, however it ends.
# shellcheck shell=bash
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1

work=$(mktemp -d /tmp/voronoi-slurm-XXXXXX)
chmod 755 "$work"  # munge wants it
cluster=$ROOT/tests/slurm/cluster
# shellcheck disable=SC2154
trap 'code=$?; [ $code = 0 ] || show_logs; "$cluster" down "$work/cluster" || true; rm -rf "$work"; exit $code' EXIT
trap 'exit 143' TERM INT
show_logs() {
  [ "$code" != 77 ] || return 0
  tail -n 30 "$work"/voronoi-*.log "$work"/*/logs/rank_* "$work"/*/logs/voronoi-*.log "$work"/cluster/log/slurmctld.log 2>/dev/null || true
}
"$cluster" up "$work/cluster" 4
export VORONOI_CLUSTER=$work/cluster VORONOI_ROOT=$ROOT VORONOI
cd "$work"

"$ROOT/tests/support/inputs" "$DATA" "$work" >/dev/null
# shellcheck disable=SC2034  # used by the scripts that source this
n_linears=$((7 * $(sed -n 's/.*"num_hidden_layers": \([0-9]*\).*/\1/p' "$work/model/config.json")))
calibration=(--calibration-text "$work/calibration.txt" --calibration-sequences 12 --calibration-context 128)
# Long enough to be disturbed in the middle.
options=("${calibration[@]}" --method voronoi --residual-centroids 256 --rounds 40 --candidates 16 --hessian-window 5)

hosts=(n1 n2 n3 n4)
fail() { echo "FAILED: $*"; exit 1; }
# "$@" on the host of slurmctld.
slurm() { "$cluster" on n0 "$@"; }
# submit RUN SBATCH-OPTIONS...: prints the job's number.
submit() {
  local run=$1
  shift
  slurm sbatch --parsable "$@" "$ROOT/slurm/quantize.sbatch" "$work/model" "$run" "${options[@]}"
}
# wait_for SECONDS CONDITION...: polls.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "not within the time: $*"
    sleep 0.05
  done
}
layers_done() { grep -c '"type":"layer"' "$1/journal.log" 2>/dev/null || true; }
has_layers() { local n; n=$(layers_done "$1"); [ "${n:-0}" -ge "$2" ]; }
starts() { grep -c '"type":"start"' "$1/journal.log" 2>/dev/null || true; }
finished() { grep -q '"type":"finished"' "$1/journal.log" 2>/dev/null; }
job_state() { slurm squeue -h -j "$1" -o %T 2>/dev/null || true; }
all_nodes_idle() { [ "$(slurm sinfo -h -t idle -o %D)" = ${#hosts[@]} ]; }
# host_of JOB N: its Nth node; the first has the batch script, rank 0 and the coordinator.
host_of() { slurm scontrol show hostnames "$(slurm squeue -h -j "$1" -o %N)" | sed -n "$2p"; }
job_gone() { [ -z "$(job_state "$1")" ]; }
# exit_of JOB: what the job's last run ended with, as CODE:SIGNAL.
exit_of() { slurm scontrol show job "$1" | sed -n 's/.* ExitCode=\([0-9:]*\).*/\1/p'; }
state_of() { slurm scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
# ranks HOST...: processes of the program there.
ranks() {
  local host pid
  for host in "$@"; do
    for pid in $("$cluster" pids "$host"); do
      if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(basename "$VORONOI")" ]; then echo "$pid"; fi
    done
  done
}
signal_ranks() {  # SIGNAL HOST...
  local signal=$1
  shift
  ranks "$@" | xargs -r kill "-$signal" 2>/dev/null || true
}
# hold RUN LAYERS: stops all ranks in their tracks once so many layers are done, so that what follows hits the middle.
hold() {
  local run=$1 n=$2
  wait_for 120 has_layers "$run" "$n"
  signal_ranks STOP "${hosts[@]}"
  [ -n "$(ranks "${hosts[@]}")" ] || fail "no rank of $run runs"
  ! finished "$run" || fail "$run came to its end before it could be disturbed"
}
# Whether a request to stop waits for a rank that is held.
asked_to_stop() {
  local pid
  for pid in $(ranks "${hosts[@]}"); do
    # Signal 10, of the whole process.
    if [ $((0x$(sed -n 's/^ShdPnd:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null || echo 0) & 0x200)) != 0 ]; then return 0; fi
  done
  return 1
}
same_as_reference() {
  diff -rq "$work/reference/layers" "$1/layers" || fail "$1 differs from the undisturbed run"
  "$VORONOI" verify "$1" >"$work/verify" 2>&1 || { cat "$work/verify"; fail "verify does not accept $1"; }
  [ -z "$(ls -A "$1/staging")" ] || fail "$1/staging holds $(ls "$1/staging")"
}
passed() { echo "ok after $SECONDS s: $*"; }
# release HOST: lets them go on, but for those on that host ("": all).
release() {
  local host
  for host in "${hosts[@]}"; do if [ "$host" != "$1" ]; then signal_ranks CONT "$host"; fi; done
}
completed() { [ "$(state_of "$1") $(exit_of "$1")" = "COMPLETED 0:0" ] || fail "job ended as $(state_of "$1") $(exit_of "$1")"; }
# The undisturbed run, without Slurm.
OMP_NUM_THREADS=1 "$VORONOI" quantize --model "$work/model" --run "$work/reference" "${options[@]}" >"$work/stdout" 2>"$work/stderr" || {
  cat "$work/stderr"
  fail "no reference"
}
