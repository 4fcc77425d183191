#!/usr/bin/env bash
# voronoi submit: the script that it writes, executed by an sbatch that runs it here, makes the run that is meant; limits and options of sbatch
# are in it; what cannot run is refused before anything is written.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -e "$1" "$work/stdout" "$work/stderr" || { cat "$work/stdout" "$work/stderr"; fail "no word of '$1'"; }; }
scripts=$(cd "$(dirname "$0")/../.." && pwd)
mkdir "$work/bin" "$work/a b"
cp "$calibration_text" "$work/a b/it's text"
cat >"$work/bin/sbatch" <<'STUB'
#!/usr/bin/env bash
# Runs the script as a job of one task would be, without Slurm's variables, and prints its number.
[ "$1" = --parsable ] && [ $# = 2 ] || { echo "sbatch: not $*" >&2; exit 1; }
[ -z "${REFUSE:-}" ] || { echo "sbatch: error: Batch job submission failed: $REFUSE" >&2; exit 1; }
cp "$2" "$WORK/submitted"
SLURM_JOB_ID=77 SLURM_SUBMIT_DIR=$PWD bash "$2" >"$WORK/job.log" 2>&1 || { cat "$WORK/job.log" >&2; exit 1; }
echo "77;cluster"
STUB
printf '#!/usr/bin/env bash\nexit 0\n' | tee "$work/bin/squeue" >"$work/bin/scontrol"
chmod +x "$work/bin/"*
export WORK=$work
with_slurm() { PATH=$work/bin:$PATH "$@"; }
given=(--calibration-text "a b/it's text" --calibration-sequences 4 --calibration-context 32 --method voronoi
  --centroids 16 --rounds 1 --seed 7 --damping 0.02 --kmeans-iterations 5 --act-order false --keep-hessians --hessian-window 2 --dtype f32 --device cpu)
cd "$work"

# Shown only.
expect 0 "$VORONOI" submit model "a b/run" "${given[@]}" --print
for line in "#SBATCH --nodes=1" "#SBATCH --ntasks-per-node=1" "#SBATCH --time=00:1[0-9]:00" "#SBATCH --mem=1[0-9]*M" "#SBATCH --requeue" "#SBATCH --signal=B:USR1@300"; do
  grep -q -x -e "$line" "$work/stdout" || { cat "$work/stdout"; fail "the script lacks $line"; }
done
[ ! -e "a b/run" ] || fail "--print wrote something"
bash -n "$work/stdout" || fail "the script is none"
cp "$work/stdout" "$work/printed"

# Submitted: the run is the one that quantize makes, from wherever the script is submitted again.
expect 0 with_slurm "$VORONOI" submit model "a b/run" "${given[@]}"
says "^job      77$"; says "voronoi status '$work/a b/run'"
cmp "$work/printed" "$work/submitted" || fail "another script than --print shows"
cmp "$work/submitted" "a b/run/logs/submit.sbatch" || fail "the run keeps another script"
expect 0 "$VORONOI" quantize --model model --run meant "${given[@]}"
same_layers "a b/run" meant
cmp <(python3 -c 'import json; print(json.load(open("a b/run/run.json"))["identity"])') <(python3 -c 'import json; print(json.load(open("meant/run.json"))["identity"])') ||
  fail "the job makes another run"
# shellcheck disable=SC2016  # for the inner shell
expect 0 with_slurm sh -c 'cd / && sbatch --parsable "$0"' "$work/a b/run/logs/submit.sbatch"
# The directory alone, with nothing left to do; its options come from the journal.
expect 0 with_slurm "$VORONOI" submit "a b/run"
grep -q -e "--kmeans-iterations 5" "$work/submitted" || fail "the resumed job lost an option"
grep -q '"type":"finished"' "a b/run/journal.log" || fail "not finished"

# Options of sbatch, by name and in sbatch's own words, decide the plan and stand in place of what it would choose.
expect 0 "$VORONOI" submit model new "${given[@]}" --nodes 3 --ntasks-per-node 2 --partition "big one" --time 2-00 --print
grep -q -x -e '#SBATCH --nodes=3 --ntasks-per-node=2 "--partition=big one" --time=2-00' "$work/stdout" || { cat "$work/stdout"; fail "options by name"; }
[ "$(grep -c -e '--time=' "$work/stdout")" = 1 ] || fail "two time limits"
expect 0 "$VORONOI" submit -N 2 -t 30 --exclusive --print -- model new "${given[@]}"
grep -q -x -e '#SBATCH -N 2 -t 30 --exclusive' "$work/stdout" || { cat "$work/stdout"; fail "options in sbatch's words"; }
grep -q -e '--nodes=\|--time=' "$work/stdout" && fail "the plan chooses what was given"
expect 0 "$VORONOI" submit --gres=gpu:h100:4 -- --model model --run new --calibration-text "a b/it's text" --print
for line in "#SBATCH --ntasks-per-node=4" "#SBATCH --gres=gpu:h100:4"; do grep -q -x -e "$line" "$work/stdout" || { cat "$work/stdout"; fail "no $line"; }; done
grep -q -e '--device cuda' "$work/stdout" || fail "a job on GPUs that does not ask for them"
grep -q -e '--gpus-per-node' "$work/stdout" && fail "GPUs are asked for twice"

# The job runs this very program, unless the environment names another.
expect 0 env -u VORONOI "$VORONOI" submit model new "${given[@]}" --print
grep -q -x -e "export VORONOI=$VORONOI" "$work/stdout" || { cat "$work/stdout"; fail "the job may find another program"; }

# Refused, each with its remedy, and nothing is written.
expect 5 env PATH=/nowhere "$VORONOI" submit model nowhere "${given[@]}"
says "cannot start sbatch"; says "on PATH"
expect 5 with_slurm env REFUSE="Invalid partition" "$VORONOI" submit model refused "${given[@]}"
says "Invalid partition"; says "submit again"
expect 2 with_slurm "$VORONOI" submit llama-2-7b new "${given[@]}"
says "no file or directory 'llama-2-7b'"
expect 2 with_slurm "$VORONOI" submit model new --calibration-text absent --centroids 200
says "centroids"
expect 2 with_slurm "$VORONOI" submit model new --calibration-text absent
says "'absent'"
expect 2 with_slurm "$VORONOI" submit model new "${given[@]}" --node-memory 1MiB
says "does not fit"
mkdir precious && touch precious/thesis.tex
expect 2 with_slurm "$VORONOI" submit model precious "${given[@]}"
says "neither empty nor a run directory"
expect 2 with_slurm env VORONOI_ROOT=/nowhere "$VORONOI" submit model new "${given[@]}"
says "VORONOI_ROOT"
[ ! -e new ] && [ "$(ls precious)" = thesis.tex ] || fail "a refused job wrote something"
expect 0 env VORONOI_ROOT="$scripts" "$VORONOI" submit model new "${given[@]}" --print
