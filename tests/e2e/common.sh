# shellcheck shell=bash disable=SC2034  # used by the scripts that source this
# Shared by the end-to-end tests: VORONOI (program) and DATA (test data, which may be absent) come from ctest.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1

support=$(cd "$(dirname "${BASH_SOURCE[0]}")/../support" && pwd)
# shellcheck source-path=SCRIPTDIR source=../support/skip.sh
. "$support/skip.sh"
# shellcheck source=../support/character_tokenizer.sh
. "$support/character_tokenizer.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# $work/model and texts; what only a trained model does, and goldens of it, are tested when `kind` is "trained".
kind=$("$support/inputs" "$DATA" "$work")
calibration_text=$work/calibration.txt technical_text=$work/technical.txt evaluation_text=$work/evaluation.txt
n_linears=$((7 * $(sed -n 's/.*"num_hidden_layers": \([0-9]*\).*/\1/p' "$work/model/config.json")))
common=(--model "$work/model" --calibration-text "$calibration_text" --calibration-sequences 12 --calibration-context 128)

fail() { echo "FAILED: $*"; exit 1; }
ranks() { local n=$1; shift; timeout -k 5 120 mpirun --bind-to none -n "$n" "$VORONOI" "$@"; }
# expect CODE COMMAND...: runs it, keeps stderr in $work/stderr, fails unless it exits with CODE.
expect() {
  local wanted=$1 code=0
  shift
  "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
  if [ "$code" != "$wanted" ]; then cat "$work/stderr"; fail "exit $code instead of $wanted: $*"; fi
}
# ranks_of RUN: its processes of the program on this machine.
ranks_of() {
  local pid
  for pid in $(pgrep -f -- "--run $1 " || true); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(basename "$VORONOI")" ]; then echo "$pid"; fi
  done
}
layers_done() { grep -c '"type":"layer"' "$1/journal.log" 2>/dev/null || true; }
# hold RUN CONDITION...: stops the run's processes in their tracks once the condition holds, so that what follows hits the middle; false when
# it is over before.
hold() {
  local run=$1 end=$((SECONDS + 60))
  shift
  until "$@" && [ -n "$(ranks_of "$run")" ]; do
    ! grep -q '"type":"finished"' "$run/journal.log" 2>/dev/null || return 1
    [ $SECONDS -lt $end ] || fail "not within the time: $*"
    sleep 0.005
  done
  ranks_of "$run" | xargs -r kill -STOP 2>/dev/null || true
  # It may have come to its end between the look and the stop, and only be on its way out.
  if [ -n "$(ranks_of "$run")" ] && ! grep -q '"type":"finished"' "$run/journal.log"; then return 0; fi
  release "$run"
  return 1
}
release() { ranks_of "$1" | xargs -r kill -CONT 2>/dev/null || true; }
# start_held CALL LOG COMMAND...: begins it in the background (its process in $pid, its output in $work/stdout and LOG), and comes back once
# that call ("rename layers/ 3" is the third rename there: tests/faults/faulty_disk.cpp) waits. go_on lets it go on.
start_held() {
  local call=$1 log=$2 end=$((SECONDS + 60))
  shift 2
  rm -f "$work/go" "$work/struck"
  env VORONOI_FAULT="$call hold" VORONOI_FAULT_HOLD="$work/go" VORONOI_FAULT_LOG="$work/struck" LD_PRELOAD="$FAULTY_DISK" "$@" >"$work/stdout" 2>"$log" &
  pid=$!
  until grep -qs hold "$work/struck"; do
    [ $SECONDS -lt $end ] && kill -0 $pid 2>/dev/null || { cat "$log"; fail "it never came to '$call': $*"; }
    sleep 0.02
  done
}
go_on() { touch "$work/go"; }
# ends CODE LOG: waits for the process of start_held.
ends() {
  local code=0
  wait "$pid" || code=$?
  [ $code = "$1" ] || { cat "$2"; fail "exit $code instead of $1"; }
}
has_layers() { local n; n=$(layers_done "$1"); [ "${n:-0}" -ge "$2" ]; }
has_begun() { grep -q '"type":"start"' "$1/journal.log" 2>/dev/null; }
same_layers() { diff -rq "$1/layers" "$2/layers" || fail "$1 and $2 differ"; }
# tiny_model NAME: the directory of a small random model of that architecture.
tiny_model() {
  local directory=$DATA/models/tiny-random/$1
  [ -d "$directory" ] || directory=$DATA/models/tiny-random-more/$1
  if [ ! -d "$directory" ]; then
    directory=$work/tiny-$1
    [ -d "$directory" ] || python3 "$support/random_model.py" "$directory" architecture="$1" dtype=float32
  fi
  echo "$directory"
}
