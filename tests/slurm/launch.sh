#!/usr/bin/env bash
# launch.sh SLURM-DIRECTORY: when the batch script puts its job back into the queue, with a false Slurm and a false mpirun.
# shellcheck disable=SC2016  # the programs expand in the false mpirun
set -euo pipefail
launch=$1/launch
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; cat "$work/log"; exit 1; }

mkdir "$work/bin"
# The limit that they tell of is $LIMIT seconds after the job's start.
cat >"$work/bin/squeue" <<'END'
#!/bin/sh
case "$*" in
  *%e*) sleep "${SQUEUE_SECONDS:-0}"; date -d "@$((STARTED + LIMIT))" +%FT%T ;;
  *) echo RUNNING ;;
esac
END
cat >"$work/bin/scontrol" <<'END'
#!/bin/sh
echo "$*" >>"$WORK/requeued"
exit 1
END
cat >"$work/bin/mpirun" <<'END'
#!/bin/bash
if [ "$1" = --version ]; then exit; fi
echo "${SRUN_CPUS_PER_TASK-none}" >"$WORK/cpus"
touch "$WORK/started"
eval "$PROGRAM"
END
# A driver that hangs in the beginning: the request to stop must not get lost in it.
cat >"$work/bin/nvidia-smi" <<'END'
#!/bin/sh
touch "$WORK/asked_driver"
sleep "${DRIVER_SECONDS:-0}"
END
chmod +x "$work"/bin/*
export PATH=$work/bin:$PATH WORK=$work SLURM_JOB_ID=7 LIMIT=1000 VORONOI_STOP_MARGIN=4
unset SLURM_ARRAY_JOB_ID SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK VORONOI_LAUNCHER VORONOI_MAX_RESTARTS
run=$work/run

# starts RESTART PROGRAM: launch in the background, as $job, once the file $SEEN is there.
starts() {
  rm -f "$work"/{started,listens,asked_driver,requeued}
  SLURM_RESTART_COUNT=$1 PROGRAM=$2 STARTED=$(date +%s) "$launch" "$run" true >"$work/log" 2>&1 &
  job=$!
  until [ -e "$work/${SEEN:-started}" ]; do sleep 0.02; done
}
# listens PROGRAM: a first start whose program has said that its traps are set.
listens() { starts 0 "$1"; until [ -e "$work/listens" ]; do sleep 0.02; done; }
ends() {  # CODE AGAIN
  code=0
  wait $job || code=$?
  [ "$code" = "$1" ] || fail "exit code $code instead of $1"
  grep -q "exit code $1, again: $2" "$work/log" || fail "not again: $2"
  if [ "$2" = yes ]; then grep -q '^requeue 7$' "$work/requeued" || fail "not requeued"; elif [ -e "$work/requeued" ]; then fail "requeued"; fi
}

starts 0 'exit 5'; ends 5 no
starts 0 'exit 3'; ends 3 no
starts 0 'exit 74'; ends 74 yes
starts 0 'exit 137'; ends 137 yes
VORONOI_MAX_RESTARTS=3
export VORONOI_MAX_RESTARTS
rm -r "$run"; starts 3 'exit 137'; ends 137 no
rm -r "$run"; starts 3 'exit 75'; ends 75 yes

# Only srun is told the cores of a task.
export SLURM_CPUS_PER_TASK=4 SRUN_CPUS_PER_TASK=4
starts 0 'exit 0'; ends 0 no
[ "$(cat "$work/cpus")" = none ] || fail "mpirun's daemons get SRUN_CPUS_PER_TASK"
cp "$work/bin/mpirun" "$work/bin/srun"
unset SRUN_CPUS_PER_TASK
VORONOI_LAUNCHER=srun starts 0 'exit 0'; ends 0 no
[ "$(cat "$work/cpus")" = 4 ] || fail "srun does not get SRUN_CPUS_PER_TASK"

# The request reaches the program, which stops in order.
rm -r "$run"
stops='trap "exit 75" USR1; touch "$WORK/listens"; while :; do sleep 0.1; done'
listens "$stops"
kill -USR1 $job; ends 75 yes
# Also where it has stopped before Slurm has said until when it may run.
SQUEUE_SECONDS=1 listens "$stops"
kill -USR1 $job; ends 75 yes

# A program that does not listen is ended before the limit: 4 s before it, here 2 s after the request.
LIMIT=6 listens 'trap "" USR1; touch "$WORK/listens"; while :; do sleep 0.1; done'
begun=$SECONDS
kill -USR1 $job; ends 143 yes
grep -q 'it is ended before the limit' "$work/log" || fail "no word of the end"
[ $((SECONDS - begun)) -le 8 ] || fail "ended after $((SECONDS - begun)) s"
# Nor one that takes TERM for a request.
LIMIT=6 listens 'trap "" USR1 TERM; touch "$WORK/listens"; while :; do sleep 0.1; done'
kill -USR1 $job; ends 137 yes

# A request while the environment is recorded: the program is not even started.
rm -f "$work/started"
SEEN=asked_driver DRIVER_SECONDS=2 starts 0 'exit 0'
kill -USR1 $job; ends 75 yes
[ ! -e "$work/started" ] || fail "the program was started after the request"

# Two restarts that bring nothing are the last; one that brings something counts anew.
layer='echo "{\"type\":\"layer\"}" >>"$WORK/run/journal.log"; '
start='echo "{\"type\":\"start\"}" >>"$WORK/run/journal.log"; '
rm -r "$run"
starts 0 "$start exit 75"; ends 75 yes
starts 1 "$start exit 75"; ends 75 yes
starts 2 "$start $layer exit 137"; ends 137 yes
starts 3 "$start exit 75"; ends 75 yes
starts 4 "$start exit 75"; ends 75 no
grep -q 'brought the run no further' "$work/log" || fail "no word of the reason"
# A new job tries anew.
SLURM_JOB_ID=8 starts 0 "$start exit 75"
code=0; wait $job || code=$?
grep -q 'again: yes' "$work/log" || fail "a new job does not try anew"
# Hessians are progress too.
rm -r "$run"
for restart in 0 1 2 3; do
  starts $restart "mkdir -p \"\$WORK/run/hessians\"; touch \"\$WORK/run/hessians/$restart\"; exit 75"; ends 75 yes
done
