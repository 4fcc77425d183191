# Shared by the tests of storage faults: tests/e2e/common.sh with runs of a fifth of a second, in memory where that is possible, and
# commands under a failing disk (FAULTY_DISK, the preloaded library of faulty_disk.cpp).
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
# shellcheck source=tests/e2e/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../e2e/common.sh"
seed=${VORONOI_TEST_SEED:-1}
RANDOM=$seed
echo "seed $seed"
head -c 20000 "$DATA/calibration/wiki.utf8" >"$work/text.txt"
run=$work/run
quantize=(quantize --run "$run" --model "$work/model" --calibration-text "$work/text.txt" --calibration-sequences 2 --calibration-context 64
  --threads 1 --device cpu --method vptq --kmeans-iterations 1 --hessian-window 2)
evaluate=(eval --text "$work/text.txt" --context 64 --windows 2 --threads 1 --device cpu)

# expect's way to run COMMAND within 60 s: a fault may not become a hang. Its exit code is in $code.
attempt() {
  code=0
  timeout -k 5 60 "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then cat "$work/stderr"; fail "hung: $*"; fi
}
# under FAULT COMMAND...: with that fault; what struck is in $work/struck.
under() {
  local fault=$1
  shift
  : >"$work/struck"
  attempt env VORONOI_FAULT="$fault" VORONOI_FAULT_LOG="$work/struck" LD_PRELOAD="$FAULTY_DISK" "$@"
}
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
# The last command ended as one should under a fault: well, or with an error (exit 3, 4 or 5) that names a file of the test.
ended_well() {
  if [ "$code" = 0 ]; then return; fi
  case $code in 3 | 4 | 5) ;; *) cat "$work/stderr"; fail "exit $code: $1" ;; esac
  grep "error: " "$work/stderr" | grep -q "$work/\|standard output" || { cat "$work/stderr"; fail "an error that names no file: $1"; }
  if grep -q "unexpected\|internal error" "$work/stderr"; then cat "$work/stderr"; fail "an error that nobody thought of: $1"; fi
}
# The same command without the fault finishes the run to the bytes of the undisturbed one, and nothing is left of the fault.
finishes() {
  attempt "$VORONOI" "${quantize[@]}"
  [ "$code" = 0 ] || { cat "$work/stderr"; fail "exit $code of the resume after: $1"; }
  same_layers "$work/reference" "$run"
  diff -rq "$work/reference/export" "$run/export" || fail "another export after: $1"
  [ -z "$(ls -A "$run/staging")" ] || fail "staging is not empty after: $1"
  attempt "$VORONOI" verify "$run"
  [ "$code" = 0 ] || { cat "$work/stdout" "$work/stderr"; fail "verify after: $1"; }
}
make_reference() {
  attempt "$VORONOI" "${quantize[@]}" "$@"
  [ "$code" = 0 ] || { cat "$work/stderr"; fail "the undisturbed run: exit $code"; }
  mv "$run" "$work/reference"
}
