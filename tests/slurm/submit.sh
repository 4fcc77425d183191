#!/usr/bin/env bash
# The command that plan prints, and voronoi submit, on a real Slurm: both come to a finished run with the bytes of one without Slurm.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
cp -r "$ROOT/slurm" "$work/slurm"  # plan names the script from the project's directory
unset VORONOI_ROOT

# Executed as it stands, from the folder that holds slurm/.
"$VORONOI" plan --model model --run "$work/planned" "${options[@]}" --ranks 2 --ranks-per-node 1 --threads 1 --json >"$work/plan.json"
line=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["sbatch"])' "$work/plan.json")
job=$(slurm bash -c "${line/#sbatch/sbatch --parsable}")
wait_for 180 job_gone "$job"
completed "$job"
finished "$work/planned" || fail "not finished: $line"
same_as_reference "$work/planned"
grep -q '"type":"start".*"ranks":2' "$work/planned/journal.log" || fail "not on the two ranks that were planned"
passed "plan's command: $line"

# From another directory, with options by name and in sbatch's own words.
mkdir "$work/elsewhere"
cd "$work/elsewhere"
slurm "$VORONOI" submit "--comment=two words \"here\"" -N 2 -- ../model "$work/submitted" "${options[@]}" --ntasks-per-node 1 --cpus-per-task 1 \
  --output "$work/voronoi-%j.log" >"$work/said"
job=$(sed -n 's/^job *//p' "$work/said")
[ -n "$job" ] || { cat "$work/said"; fail "no job's number"; }
slurm scontrol show job "$job" >"$work/shown"
for word in "NumNodes=2" 'Comment=two words "here"' "Requeue=1" "TimeLimit=00:1"; do
  grep -q -F -e "$word" "$work/shown" || { cat "$work/shown"; fail "the job lacks $word"; }
done
wait_for 180 job_gone "$job"
completed "$job"
finished "$work/submitted" || fail "the submitted run is not finished"
same_as_reference "$work/submitted"
grep -q '"type":"start".*"ranks":2' "$work/submitted/journal.log" || fail "not on two ranks"
passed "voronoi submit, job $job"

# What Slurm refuses comes back as a code, with Slurm's words.
code=0
slurm "$VORONOI" submit ../model "$work/refused" "${options[@]}" --partition nowhere >"$work/said" 2>&1 || code=$?
[ $code = 5 ] || { cat "$work/said"; fail "exit $code instead of 5 for a partition that is not there"; }
grep -q "invalid partition" "$work/said" || { cat "$work/said"; fail "Slurm's words are lost"; }
passed "a job that Slurm refuses"
