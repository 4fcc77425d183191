# Shared by the end-to-end tests: VORONOI (program), DATA (test data) come from ctest. Skips (77) without data.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1

stories=$DATA/models/stories260K
if [ ! -d "$stories" ]; then echo "SKIP: no test data at $stories"; exit 77; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A whole model directory: the weights with the tokenizer that lies beside them.
cp -r "$stories/hf" "$work/model"
chmod -R u+w "$work/model"
cp "$stories/tok512.model" "$work/model/tokenizer.model"
common=(--model "$work/model" --calibration-text "$DATA/calibration/wiki.utf8" --calibration-sequences 12 --calibration-context 128)

fail() { echo "FAILED: $*"; exit 1; }
ranks() { local n=$1; shift; timeout -k 5 120 mpirun --bind-to none -n "$n" "$VORONOI" "$@"; }
# expect CODE COMMAND...: runs it, keeps stderr in $work/stderr, fails unless it exits with CODE.
expect() {
  local wanted=$1 code=0
  shift
  "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
  if [ "$code" != "$wanted" ]; then cat "$work/stderr"; fail "exit $code instead of $wanted: $*"; fi
}
same_layers() { diff -rq "$1/layers" "$2/layers" || fail "$1 and $2 differ"; }
# character_tokenizer FILE: random models have no tokenizer; one of single characters serves all of them (other characters are dropped).
character_tokenizer() {
  local id=4 letter
  {
    printf '{"model": {"type": "BPE", "merges": [], "vocab": {" ": 0, "\\n": 1, ".": 2, ",": 3'
    for letter in {a..z} {A..Z} {0..9}; do printf ', "%s": %d' "$letter" $id; id=$((id + 1)); done
    printf '}}}\n'
  } >"$1"
}
