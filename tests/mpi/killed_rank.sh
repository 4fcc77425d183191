#!/usr/bin/env bash
# killed_rank.sh RUN_RANKS PROGRAM: the job must end because of the killed rank (mpirun: 128 + 9), well before the time limit.
set -u
SECONDS=0
"$1" 3 30 "$2"
status=$?
echo "exit status $status after $SECONDS s"
[ $status -eq 137 ] && [ $SECONDS -lt 10 ]
