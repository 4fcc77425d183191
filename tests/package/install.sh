#!/usr/bin/env bash
# `cmake --install` under a prefix: every part in its place, program, module and batch scripts find one another there, from anywhere.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
prefix=$work/usr
cmake --install "$BUILD" --prefix "$prefix" >/dev/null
voronoi=$prefix/bin/voronoi
for file in bin/voronoi share/man/man1/voronoi.1.gz share/bash-completion/completions/voronoi share/doc/voronoi/copyright \
  share/voronoi/configs/voronoi-2bit.cfg share/voronoi/configs/models/llama-2-7b.json share/voronoi/slurm/launch; do
  [ -f "$prefix/$file" ] || fail "no $file"
done
for script in "$ROOT"/slurm/*; do
  [ -x "$prefix/share/voronoi/slurm/$(basename "$script")" ] || fail "$(basename "$script") is not there, or cannot be run"
done
[ "$("$voronoi" --version)" = "$("$BUILD/voronoi" --version)" ] || fail "another version"
check_man_page "$prefix/share/man/man1/voronoi.1.gz" "$voronoi"
if command -v groff >/dev/null; then
  warnings=$(zcat "$prefix/share/man/man1/voronoi.1.gz" | groff -man -Tutf8 -wmac -wescape -wsyntax 2>&1 >/dev/null)
  [ -z "$warnings" ] || fail "man page: $warnings"
fi
"$(dirname "$0")/completion.sh" "$prefix/share/bash-completion/completions/voronoi" "$voronoi"

tiny_model "$work"
# The module is looked for where a driver is; any library of its name stands for one.
cc -shared -x c /dev/null -o "$work/libcuda.so.1"
run=(env "LD_LIBRARY_PATH=$work" "$voronoi" generate --model "$work/model" --prompt fox --max-tokens 1 --device cuda)
if [ ! -e "$prefix/lib/voronoi/libvoronoi_cuda.so" ]; then
  code=0
  "${run[@]}" >"$work/out" 2>&1 || code=$?
  { [ $code = 74 ] && grep -q "nor in $prefix/lib/voronoi" "$work/out"; } || fail "no module: exit $code, $(cat "$work/out")"
fi
if [ -n "${EMULATED_CUDA:-}" ] && [ -e "$EMULATED_CUDA" ]; then
  mkdir -p "$prefix/lib/voronoi"
  cp "$EMULATED_CUDA" "$prefix/lib/voronoi/libvoronoi_cuda.so"
  "${run[@]}" >"$work/out" 2>&1 || fail "the module in lib/voronoi is not used: $(cat "$work/out")"
fi

# The batch scripts, with stubs for Slurm and for mpirun; each stub says what it was given.
stubs=$work/stubs elsewhere=$work/elsewhere
mkdir "$stubs" "$elsewhere"
for name in squeue numactl nvidia-smi; do printf '#!/bin/sh\nexit 1\n' >"$stubs/$name"; done
# shellcheck disable=SC2016
printf '#!/bin/sh\n[ -z "$STUB_COMMAND" ] || echo "   Command=$STUB_COMMAND MODEL RUN"\n' >"$stubs/scontrol"
# shellcheck disable=SC2016
printf '#!/bin/bash\n[ "$1" = --version ] && exit\necho "mpirun $*"\nshift 2\nexec "$@"\n' >"$stubs/mpirun"
chmod +x "$stubs"/*
unset VORONOI VORONOI_ROOT VORONOI_LAUNCH_PREFIX VORONOI_LAUNCHER CUDA_VISIBLE_DEVICES
export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR=$elsewhere STUB_COMMAND=
spool=$work/spool/slurm_script
mkdir "$work/spool"
cp "$ROOT/slurm/quantize.sbatch" "$spool"
n_runs=0
# batch PATH ASSIGNMENTS... -- SCRIPT: quantizes by that script from a foreign directory; output in $work/out.
batch() {
  local path=$1 assignments=() code=0
  shift
  while [ "$1" != -- ]; do assignments+=("$1"); shift; done
  n_runs=$((n_runs + 1))
  (cd "$elsewhere" && env "PATH=$stubs:$path" "${assignments[@]}" "$2" "$work/model" "$work/run$n_runs" --calibration-text "$work/text.txt" \
    --config "$prefix/share/voronoi/configs/voronoi-2bit.cfg" "${calibration[@]}") >"$work/out" 2>&1 || code=$?
  return $code
}
works() {  # PROGRAM ARGUMENTS OF batch...
  local program=$1
  shift
  batch "$@" || fail "exit $? of: $* ($(cat "$work/out"))"
  grep -qF "bind_gpu.sh $program quantize" "$work/out" || fail "another program than $program: $* ($(cat "$work/out"))"
  "$voronoi" verify "$work/run$n_runs" >/dev/null 2>&1 || fail "no whole run: $*"
}
refuses() {  # WORDS ARGUMENTS OF batch...
  local words=$1 code=0
  shift
  batch "$@" || code=$?
  { [ $code = 2 ] && grep -q "$words" "$work/out"; } || fail "exit $code, without '$words': $* ($(cat "$work/out"))"
}
system=$(dirname "$(command -v env)"):/bin
installed=$prefix/share/voronoi/slurm
works "$voronoi" "$system" -- "$installed/quantize.sbatch"                                     # started where it lies
works "$voronoi" "$system" "STUB_COMMAND=$installed/quantize.sbatch" -- "$spool"               # Slurm's copy of it
works "$voronoi" "$prefix/bin:$system" -- "$spool"                                             # known by the program alone
works "$voronoi" "$system" "VORONOI_ROOT=$prefix" -- "$spool"
project=$work/project
mkdir -p "$project/build/release"
cp -r "$ROOT/slurm" "$project/slurm"
ln "$voronoi" "$project/build/release/voronoi" 2>/dev/null || cp "$voronoi" "$project/build/release/voronoi"
works "$project/build/release/voronoi" "$system" "SLURM_SUBMIT_DIR=$project" -- "$spool"
works "$project/build/release/voronoi" "$prefix/bin:$system" "VORONOI_ROOT=$project" -- "$spool"
works "$voronoi" "$system" "VORONOI_ROOT=$project" "VORONOI=$voronoi" -- "$spool"
rm "$project/build/release/voronoi"
works "$voronoi" "$prefix/bin:$system" "VORONOI_ROOT=$project" -- "$spool"
if ! PATH=$system command -v voronoi >/dev/null; then
  refuses 'no slurm/launch in ' "$system" -- "$spool"
  refuses "no voronoi: $project/build/release/voronoi is not there" "$system" "VORONOI_ROOT=$project" -- "$spool"
fi
refuses "VORONOI is 'nothing'" "$system" VORONOI=nothing -- "$installed/quantize.sbatch"

# Words between launcher and program: a stub of a container that knows another place of it, on every rank and for the record.
# shellcheck disable=SC2016
printf '#!/bin/bash\nshift\necho "contained: $*"\nPATH=%s:$PATH exec "$@"\n' "$prefix/bin" >"$stubs/container"
chmod +x "$stubs/container"
batch "$system" "VORONOI_LAUNCH_PREFIX=container image.sif env FOO=1" -- "$installed/quantize.sbatch" || fail "in a container: $(cat "$work/out")"
grep -q 'bind_gpu.sh container image.sif env FOO=1 voronoi quantize' "$work/out" || fail "the prefix stands elsewhere: $(cat "$work/out")"
grep -q 'contained: env FOO=1 voronoi quantize' "$work/out" || fail "the prefix was not run"
grep -q 'contained: env FOO=1 voronoi --version' "$work/run$n_runs"/logs/environment.* || fail "the record asked another program"
echo "installed: layout, man page, completion, and $n_runs starts of the batch scripts"
