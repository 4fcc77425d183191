#!/usr/bin/env bash
# A disk that fills up, at any place of a run, an export, a report or a printed result: an error that names the file, and the same command
# finishes once there is space.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
need_mounts
trap 'umount "$run" 2>/dev/null || true; rm -rf "$work"' EXIT
quantize+=(--keep-hessians)
make_reference
used=$(du -sk "$work/reference" | cut -f1)

# A real disk of several sizes.
mkdir "$run"
for percent in 2 8 25 45 60 75 90; do
  mount -t tmpfs -o "size=$((used * percent / 100 + 4))k" full "$run"
  bounded "$VORONOI" "${quantize[@]}"
  exits 5 "a disk of $percent % of what is needed"
  says "error: $run/.*No space left on device"
  mount -o remount,size=64m "$run"
  finishes "a disk of $percent % of what is needed"
  umount "$run"
done
# Names instead of bytes.
mount -t tmpfs -o size=64m,nr_inodes=40 full "$run"
bounded "$VORONOI" "${quantize[@]}"
exits 5 "a disk of 40 names"
says "error: $run/.*No space left on device; free some space"
mount -o remount,nr_inodes=1000 "$run"
finishes "a disk of 40 names"
umount "$run"
rmdir "$run"

# Every kind of file in turn, once and for good. Auxiliary files do not end a run.
for file in block_ model.layers journal.log run.json lock.json .write-check model.safetensors.0 config.json.0 voronoi_export.json.0 report/report; do
  for error in ENOSPC EDQUOT; do
    nth=$((RANDOM % 2 + 1))
    if [ $file = .write-check ]; then nth=1; fi
    fault="write,pwrite,fsync $file $nth$([ $((RANDOM % 2)) = 0 ] || echo +) $error"
    rm -rf "$run"
    under "$fault" "$VORONOI" "${quantize[@]}"
    ended_well "$fault"
    exits 5 "$fault"
    says "No space left on device\|Disk quota exceeded"
    says "free some space"
    finishes "$fault"
  done
done
rm -rf "$run"
under "write status.json 1+ ENOSPC" "$VORONOI" "${quantize[@]}"
exits 0 "no space for status.json"
[ "$(grep -c "warning: $run/status.json" "$work/stderr")" = 1 ] || complain "not warned of status.json once"
same_result "no space for status.json"
rm -rf "$run" && mkdir -p "$run/logs" && ln -s /dev/full "$run/logs/rank_0000.log"
bounded "$VORONOI" "${quantize[@]}"
exits 0 "a full disk for the log"
[ "$(grep -c "warning: no log file: .*rank_0000.log" "$work/stderr")" = 1 ] || complain "not warned of the log once"
same_result "a full disk for the log"

# Two ranks end in order: the error is told once, nobody is aborted.
for fault in "write model.layers 3 ENOSPC" "write journal.log 5+ ENOSPC"; do
  rm -rf "$run"
  under "$fault" mpirun --bind-to none -n 2 "$VORONOI" "${quantize[@]}"
  ended_well "$fault"
  exits 5 "two ranks, $fault"
  if grep -q "MPI_ABORT" "$work/stderr"; then complain "aborted: $fault"; fi
  finishes "two ranks, $fault"
done

# Exports and reports elsewhere: whole or not there.
under "pwrite model.safetensors 5 ENOSPC" "$VORONOI" export "$run" --out "$work/out"
exits 5 "an export without space"
says "No space left on device; free some space"
[ -z "$(ls -d "$work"/out* 2>/dev/null)" ] || fail "half an export is left"
under "write report 1+ ENOSPC" "$VORONOI" report "$run" --out "$work/tables"
exits 5 "a report without space"
[ -z "$(ls "$work/tables")" ] || fail "half a report is left"
# A figure that cannot be kept is printed, and the exit code says that it was not kept.
under "write evaluations 1+ ENOSPC" "$VORONOI" "${evaluate[@]}" --model "$run"
exits 5 "an evaluation without space"
says "evaluations/.*No space left on device.*not kept in the run"
grep -q '"perplexity"' "$work/stdout" || fail "the figure was not printed"

# A result that its reader does not get is a failure.
for command in "report $run" "plan --model $work/model --method rtn --json" "inspect $run" "inspect $run --json" "verify $run" "status $run" \
  "generate --model $run --prompt One --max-tokens 4" "--help" "--version" "${evaluate[*]} --model $run"; do
  code=0
  # shellcheck disable=SC2086  # no path has a blank
  timeout -k 5 60 "$VORONOI" $command >/dev/full 2>"$work/stderr" || code=$?
  exits 5 "$command >/dev/full"
  says "standard output: cannot write the result: No space left on device"
done
# What is printed beside the result is none.
# shellcheck disable=SC2016  # for the inner shell
bounded bash -c '"$0" "$@" 2>/dev/full' "$VORONOI" report "$run"
exits 0 "a report with stderr on a full disk"
rm -rf "$run"
# shellcheck disable=SC2016  # for the inner shell
bounded bash -c '"$0" "$@" 2>/dev/full' "$VORONOI" "${quantize[@]}"
exits 0 "a run with stderr on a full disk"
same_result "a run with stderr on a full disk"
