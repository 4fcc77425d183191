# shellcheck shell=bash disable=SC2034  # used by the scripts that source this
# Shared by the tests of storage faults: what tests/e2e/common.sh has, runs of a fifth of a second (in memory where that is possible), and
# commands under a failing disk (FAULTY_DISK: the preloaded library of faulty_disk.cpp).
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
# shellcheck source-path=SCRIPTDIR source=../e2e/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../e2e/common.sh"
seed=${VORONOI_TEST_SEED:-1}
RANDOM=$seed
echo "seed $seed"
: "$RANDOM"
head -c 20000 "$calibration_text" >"$work/text.txt"
run=$work/run
settings=(--model "$work/model" --calibration-text "$work/text.txt" --calibration-sequences 2 --calibration-context 64 --threads 1
  --device cpu --hessian-window 2)
quantize=(quantize --run "$run" "${settings[@]}" --method vptq --kmeans-iterations 1)
evaluate=(eval --text "$work/text.txt" --context 64 --windows 2 --threads 1 --device cpu --json)

# bounded COMMAND...: within 60 s, for a fault may not become a hang. Its exit code is in $code, its output in $work/stdout and stderr.
bounded() {
  local started=$SECONDS
  code=0
  timeout -k 5 60 "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
  [ $((SECONDS - started)) -lt 60 ] || complain "hung: $*"
}
complain() {
  cat "$work/stdout" "$work/stderr"
  fail "$1"
}
# under FAULT COMMAND...: the fault must strike.
under() {
  local fault=$1
  shift
  : >"$work/struck"
  bounded env VORONOI_FAULT="$fault" VORONOI_FAULT_LOG="$work/struck" LD_PRELOAD="$FAULTY_DISK" "$@"
  grep -qv '^count' "$work/struck" || complain "nothing struck: $fault"
}
says() { grep -q -- "$1" "$work/stderr" || complain "no word of '$1'"; }
exits() { [ "$code" = "$1" ] || complain "exit $code instead of $1: ${*:2}"; }
# The last command ended as one should under a fault: well, or with an error that names a file of the test.
ended_well() {
  if [ "$code" = 0 ]; then return; fi
  case $code in 3 | 4 | 5 | 74) ;; *) complain "exit $code: $1" ;; esac
  grep 'error: ' "$work/stderr" | grep -q "$work/" || complain "an error that names no file: $1"
  if grep -q 'unexpected: \|internal error' "$work/stderr"; then complain "an error that nobody thought of: $1"; fi
}
# The same command without the fault finishes the run to the bytes of the undisturbed one; nothing is left of the fault.
finishes() {
  bounded "$VORONOI" "${quantize[@]}"
  exits 0 "the same command after $1"
  same_result "$1"
  [ -z "$(ls -A "$run/staging")" ] || fail "staging is not empty after: $1"
  bounded "$VORONOI" verify "$run"
  exits 0 "verify after $1"
}
same_result() {
  same_layers "$work/reference" "$run"
  diff -rq "$work/reference/export" "$run/export" || fail "another export after: $1"
}
make_reference() {
  bounded "$VORONOI" "${quantize[@]}"
  exits 0 "the undisturbed run"
  mv "$run" "$work/reference"
}
# Whether this process may; otherwise the script starts itself once more in name spaces of its own, or skips.
need_mounts() {
  mkdir -p "$work/probe"
  if mount -t tmpfs -o size=64k probe "$work/probe" 2>/dev/null; then
    umount "$work/probe"
  elif [ -z "${VORONOI_OWN_MOUNTS:-}" ] && unshare -rm true 2>/dev/null; then
    rm -rf "$work"
    VORONOI_OWN_MOUNTS=1 exec unshare -rm "$0"
  else
    skip machine "this process may mount nothing, not even in a name space of its own"
  fi
}
