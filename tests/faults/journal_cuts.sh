#!/usr/bin/env bash
# The journal cut anywhere: the resume finishes to the same bytes. A piece missing inside it, or bytes behind a cut: the file is named.
# Every byte of a short journal: tests/store/journal_test.cpp.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
make_reference
cp -a "$work/reference" "$work/finished"
journal=$work/finished/journal.log
size=$(stat -c %s "$journal")
mapfile -t ends < <(LC_ALL=C awk '{n += length($0) + 1; print n}' "$journal")

cuts=(0 1 "${ends[0]}" $((ends[0] - 1)) $((ends[20] + 1)) $((ends[30] - 1)) "${ends[40]}" $((size - 1)))
for _ in $(seq "$((6 * ${VORONOI_FAULT_ROUNDS:-1}))"); do cuts+=($(((RANDOM * 32768 + RANDOM) % size))); done
for cut in "${cuts[@]}"; do
  rm -rf "$run"
  cp -a "$work/finished" "$run"
  truncate -s "$cut" "$run/journal.log"
  bounded "$VORONOI" verify "$run"
  exits 0 "verify, cut at byte $cut"
  finishes "a journal cut at byte $cut of $size"
done

for _ in 1 2 3 4; do
  rm -rf "$run"
  cp -a "$work/finished" "$run"
  at=$((RANDOM % (size - 2000) + 100))
  { head -c "$at" "$journal"; tail -c +$((at + 2 + RANDOM % 500)) "$journal"; } >"$run/journal.log"
  for command in "verify $run" "status $run" "report $run" "inspect $run" "${evaluate[*]} --model $run" "${quantize[*]}"; do
    # shellcheck disable=SC2086  # no path has a blank
    bounded "$VORONOI" $command
    exits 3 "$command, a piece missing at byte $at"
    says "error: $run/journal.log: byte [0-9]*: line [0-9]* is damaged.*keep a copy, cut the file before this line"
  done
  # The remedy that the message tells.
  line=$(grep -o 'line [0-9]* is damaged' "$work/stderr" | grep -o '[0-9]*')
  head -n $((line - 1)) "$run/journal.log" >"$work/cut" && cp "$work/cut" "$run/journal.log"
  finishes "a journal that was cut by hand before line $line"
done
