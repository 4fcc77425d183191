#!/usr/bin/env bash
# Two starts of one run at the same moment, many times: one at a time works there, the other one is told who does and what to do, and nothing
# is damaged. A lock that a dead host has left is explained.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
options=("${common[@]}" --method rtn)
expect 0 "$VORONOI" quantize --run "$work/reference" "${options[@]}"

# start NAME OPTIONS...: in the background; its exit code ends up in $work/NAME.code
start() {
  local name=$1
  shift
  { code=0; "$VORONOI" quantize "$@" >/dev/null 2>"$work/$name.err" || code=$?; echo $code >"$work/$name.code"; } &
}

refused=0
for round in $(seq 8); do
  run=$work/run$round
  # At the same moment; or the second one when the first is at work, and held there.
  if [ $((round % 2)) = 0 ]; then
    start_held "rename layers/ 1" "$work/first.err" "$VORONOI" quantize --run "$run" "${options[@]}"
    expect 5 "$VORONOI" quantize --run "$run" "${options[@]}"
    mv "$work/stderr" "$work/second.err"
    echo 5 >"$work/second.code"
    go_on
    ends 0 "$work/first.err"
    echo 0 >"$work/first.code"
  else
    start first --run "$run" "${options[@]}"
    start second --run "$run" "${options[@]}"
    wait
  fi
  finished=0
  for name in first second; do
    case $(cat "$work/$name.code") in
      0) finished=$((finished + 1)) ;;
      5)
        grep -q "is held by process [0-9]* on $(hostname)" "$work/$name.err" || { cat "$work/$name.err"; fail "round $round: the holder is not named"; }
        grep -q "wait until it ends, stop it, or choose another place with --run" "$work/$name.err" || fail "round $round: no remedy"
        refused=$((refused + 1))
        ;;
      *) cat "$work/$name.err"; fail "round $round: exit $(cat "$work/$name.code") of the $name start" ;;
    esac
  done
  # None: both refused; two: one began when the other had ended.
  [ $finished -ge 1 ] || fail "round $round: nobody won"
  [ "$(grep -c '"type":"start"' "$run/journal.log")" = $finished ] || fail "round $round: a refused start is in the journal"
  same_layers "$work/reference" "$run"
  expect 0 "$VORONOI" verify "$run"
  [ -z "$(find "$run/staging" "$run/quarantine" -mindepth 1)" ] || fail "round $round: something is left in staging or quarantine"
done
echo "$refused of 8 pairs met, 4 of them at work"

# A host died, and the file server still holds its lock.
run=$work/stale
mkdir "$run"
echo '{"host":"node7","pid":4242,"boot":"b","pid_namespace":"n","cluster":"","job":"77","restart":0,"start":"2026-01-02T03:04:05Z"}' >"$run/lock.json"
exec 9<>"$run/lock.json"
flock -x 9
expect 5 "$VORONOI" quantize --run "$run" "${options[@]}"
for word in "is held by process 4242 on node7 (Slurm job 77), started 2026-01-02T03:04:05Z" "if its host is dead" "squeue -j 77" "remove $run/lock.json"; do
  grep -qF "$word" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$word'"; }
done
rm "$run/lock.json" # as it says
expect 0 "$VORONOI" quantize --run "$run" "${options[@]}"
same_layers "$work/reference" "$run"
exec 9>&-
