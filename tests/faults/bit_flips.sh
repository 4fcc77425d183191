#!/usr/bin/env bash
# One bit flipped in any file of a finished and of a half-done run: verify, eval, export and a resume say which file, or give what they give
# without the flip. Every bit of a shard, a journal and an identity: tests/store.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
flips=${VORONOI_FAULT_ROUNDS:-1}

# flip FILE: one bit at a random place; what it was is told.
flip() {
  local size at bit
  size=$(stat -c %s "$1")
  at=$(((RANDOM * 32768 + RANDOM) % size)) bit=$((1 << RANDOM % 8))
  local was
  was=$(od -An -tu1 -j $at -N1 "$1")
  # shellcheck disable=SC2059
  printf "\\x$(printf %x $((was ^ bit)))" | dd of="$1" bs=1 seek=$at conv=notrunc status=none
  what="$1 byte $at bit $bit"
}
figure() { grep -o '"nll":[^,]*' "$work/stdout"; }
# named FILE: the last command names the file, in its error or its warning.
named() { grep -q -- "$(basename "$1")" "$work/stderr" "$work/stdout"; }

quantize+=(--keep-hessians)
make_reference
bounded "$VORONOI" "${evaluate[@]}" --model "$work/reference"
exits 0 "the undisturbed evaluation"
wanted=$(figure)
cp -a "$work/reference" "$run"
bounded "$VORONOI" "${evaluate[@]}" --model "$run/export"
exits 0 "the undisturbed evaluation of the export"
# A copy is another file tree with the manifest of the first: what is compared lies at one place.
rm -rf "$run"
mv "$work/reference" "$run"
cp -a "$run" "$work/reference-half"
# The card of an export tells the figures that are known when it is made: one made again has them.
rm -r "$run/export"
bounded "$VORONOI" "${quantize[@]}"
exits 0 "the export with figures"
bounded "$VORONOI" verify "$run"
exits 0 "the undisturbed run"
cp -a "$run" "$work/finished"

# A run that died in its second window of blocks.
rm -rf "$run"
under "rename layers/model.layers.3 1 kill" "$VORONOI" "${quantize[@]}"
exits 137 "the run that dies"
mv "$run" "$work/half"

check_commands() {
  local file=$1 state=$2
  bounded "$VORONOI" verify "$run"
  # What is shown to people alone has no sum: the log. The text of the lock decides nothing; kept windows are computed again.
  case $file in
    */lock.json | */logs/* | */status.json | */metrics.prom | */evaluations/*.windows) exits 0 "verify, $what" ;;
    *) if [ "$code" = 0 ] && [ "$file" != "$run/journal.log" ]; then complain "verify does not notice: $what"; fi ;;
  esac
  if [ "$code" != 0 ]; then named "$file" || complain "verify does not name the file: $what"; fi
  bounded "$VORONOI" status "$run"
  ended_well "status, $what"
  if [ "$state" = finished ]; then
    bounded "$VORONOI" "${evaluate[@]}" --model "$run"
    ended_well "eval, $what"
    if [ "$code" = 0 ]; then [ "$(figure)" = "$wanted" ] || complain "another figure: $what"; fi
    if [[ $file = $run/export/* ]]; then
      bounded "$VORONOI" "${evaluate[@]}" --model "$run/export"
      exits 3 "eval of the export, $what"
      named "$file" || complain "eval does not name the file: $what"
    fi
  fi
  bounded "$VORONOI" "${quantize[@]}"
  ended_well "resume, $what"
  if [ "$code" = 0 ]; then
    same_result "$what"
    bounded "$VORONOI" verify "$run"
    if [ "$code" != 0 ] && [[ $file = $run/hessians/* ]]; then
      # Nothing is left to do with it, so it was not made again; who wants it as an input is told.
      exits 3 "verify behind the resume, $what"
      named "$file" || complain "verify behind the resume does not name: $what"
    else
      exits 0 "verify behind the resume, $what"
      diff -rq "$work/reference/hessians" "$run/hessians" || fail "other Hessians: $what"
    fi
  else
    named "$file" || complain "the resume does not name the file: $what"
  fi
}

cp -a "$work/finished" "$work/reference-finished"
for state in finished half; do
  rm -rf "$work/reference"
  mv "$work/reference-$state" "$work/reference"
  mapfile -t kinds < <(cd "$work/$state" && find . -type f -size +0 | grep -v 'layers/\|hessians/\|staging/' | sort)
  for _ in 1 2 3; do
    kinds+=("$(cd "$work/$state" && find layers -type f | shuf -n 1 --random-source=<(yes "$RANDOM"))")
  done
  for _ in 1 2; do
    kinds+=("$(cd "$work/$state" && find hessians -type f | shuf -n 1 --random-source=<(yes "$RANDOM"))")
  done
  for name in "${kinds[@]}"; do
    for _ in $(seq "$flips"); do
      rm -rf "$run"
      cp -a "$work/$state" "$run"
      flip "$run/${name#./}"
      check_commands "$run/${name#./}" $state
    done
  done
done
# Kept Hessians are another run's input.
rm -rf "$run"
cp -a "$work/finished" "$work/donor"
flip "$work/donor/hessians/block_001.down.h5"
bounded "$VORONOI" "${quantize[@]}" --hessians-from "$work/donor"
exits 3 "a damaged Hessian of another run"
says "donor/hessians/block_001.down.h5"
