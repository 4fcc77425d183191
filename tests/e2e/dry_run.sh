#!/usr/bin/env bash
# quantize --dry-run: what it says before a run, in the middle and after it, everything that it refuses, and that it writes nothing.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -- "$1" "$work/stdout" "$work/stderr" || { cat "$work/stdout" "$work/stderr"; fail "no word of '$1'"; }; }
run=$work/new/run
options=("${common[@]}" --method voronoi --centroids 16 --rounds 1 --hessian-window 2)
# Names, sizes and times of all files here, the tests' own aside.
everything() { find "$work" -mindepth 1 ! -path "$work/std*" ! -path "$work/before" ! -path "$work/after" -printf '%p %y %s %T@\n' | sort; }
# dry CODE COMMAND...: expect, and nothing is written.
dry() {
  local wanted=$1
  shift
  : >"$work/stdout"; : >"$work/stderr"
  everything >"$work/before"
  expect "$wanted" "$@" --dry-run
  everything >"$work/after"
  diff "$work/before" "$work/after" || fail "a dry run wrote something: $*"
}

dry 0 "$VORONOI" quantize --run "$run" "${options[@]}"
says "first of a new run"; says "12 windows, 1536 tokens of 1 text"; says "0 of $n_linears are done"; says "quantize: column loop"; says "disk: at most"
says "host, quantizing"
# Of the ranks it is started on.
dry 0 ranks 3 quantize --run "$run" "${options[@]}"
says "; 3 ranks of"
[ "$(grep -c '^The start' "$work/stdout")" = 1 ] || fail "told more than once under mpirun"

# What the run would refuse, before any work, and where it would be.
dry 2 "$VORONOI" quantize --run "$run" "${options[@]}" --centroids 200
dry 2 "$VORONOI" quantize --run "$run" "${common[@]}" --method rtn --stages quantize,export --export-format vptq
says "vector-quantized layers only"
dry 2 "$VORONOI" quantize --run "$run" "${common[@]}" --method voronoi --stages export
says "export needs quantize"
dry 5 "$VORONOI" quantize --run "$run" "${options[@]}" --calibration-text "$work/absent"
says absent
head -c 300 "$calibration_text" >"$work/short"
dry 3 "$VORONOI" quantize --model "$work/model" --calibration-text "$work/short" --calibration-context 512 --run "$run"
says short
mkdir "$work/broken" && cp -r "$work/model/." "$work/broken"
truncate -s 5000 "$work/broken/model.safetensors"
dry 3 "$VORONOI" quantize --run "$run" --model "$work/broken" "${options[@]:2}"
says model.safetensors
mkdir "$work/precious" && touch "$work/precious/thesis.tex"
dry 2 "$VORONOI" quantize --run "$work/precious" "${options[@]}"
says "neither empty nor a run directory"
dry 2 "$VORONOI" quantize --run "$calibration_text/run" "${options[@]}"
says "calibration.txt: cannot create a directory in it: Not a directory"
# A place where nobody may write, and one that is too small.
if [ "$(id -u)" = 0 ] && mkdir "$work/small" && mount -t tmpfs -o size=64k tmpfs "$work/small" 2>/dev/null; then
  dry 2 "$VORONOI" quantize --run "$work/small/run" "${options[@]}"
  says "make space"
  mount -o remount,ro "$work/small"
  dry 2 "$VORONOI" quantize --run "$work/small/run" "${options[@]}"
  says "Read-only file system"
  umount "$work/small"
fi

# In the middle: at work it is told so, stopped it is resumed, and other settings are told apart.
start_held "rename layers/ 3" "$work/log" "$VORONOI" quantize --run "$run" "${options[@]}"
expect 2 "$VORONOI" quantize --run "$run" --dry-run
says "is at work"
kill -USR1 $pid
go_on
ends 75 "$work/log"
done_now=$(layers_done "$run")
dry 0 "$VORONOI" quantize --run "$run"
says "would be start 2 of $run, which it resumes"; says "$done_now of $n_linears are done"
dry 2 "$VORONOI" quantize --run "$run" "${options[@]}" --seed 1
says "quantization.seed: was 0, is 1"
expect 0 "$VORONOI" quantize --run "$run"
dry 0 "$VORONOI" quantize --run "$run"
says "$n_linears of $n_linears are done"; says "quantize  came to its end already"

# Hessians of another run: all must be there, and of this calibration.
expect 0 "$VORONOI" quantize --run "$work/donor" "${common[@]}" --method rtn --keep-hessians
dry 0 "$VORONOI" quantize --run "$work/taker" "${options[@]}" --hessians-from "$work/donor"
dry 2 "$VORONOI" quantize --run "$work/taker" "${options[@]:0:2}" --calibration-text "$technical_text" "${options[@]:4}" --hessians-from "$work/donor"
says "hessians-from"
dry 2 "$VORONOI" quantize --run "$work/taker" "${options[@]}" --hessians-from "$run"
says "20 Hessians are not there"
