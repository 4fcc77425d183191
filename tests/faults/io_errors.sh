#!/usr/bin/env bash
# Calls that fail, fall short or are interrupted, one of all that a run makes: it recovers, or ends with an error that names the file, and
# the same command finishes to the same bytes.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
make_reference

# count CALL COMMAND...: how many such calls on files of the test it makes.
count() {
  rm -f "$work/counted"
  env VORONOI_FAULT="$1 $work/ 1 count" VORONOI_FAULT_LOG="$work/counted" LD_PRELOAD="$FAULTY_DISK" "${@:2}" >/dev/null 2>&1
  sort -k2 -n "$work/counted" | tail -n 1 | cut -d' ' -f2
}
# Not the last few: how many there are depends on the heartbeats that fall into a run.
somewhere() { echo $(((RANDOM * 32768 + RANDOM) % ($1 - $1 / 10) + 1)); }

# One failure of each kind, and of the calls that matter most several; "+": the disk stays gone.
failures=(open:EIO open:EIO+ open:EINTR create:EACCES create:EIO read:EIO read:EIO+ read:short read:EINTR write:EIO write:EIO+ write:short
  write:short write:EINTR pwrite:EIO pwrite:short pwrite:EINTR fsync:EIO fsync:EIO fsync:EIO+ fsync:EINTR rename:EIO rename:EIO rename:EIO+
  truncate:EIO mkdir:EIO unlink:EIO unlink:EIO+)
rounds=${VORONOI_FAULT_ROUNDS:-1}
declare -A calls
for _ in $(seq "$rounds"); do
  for failure in "${failures[@]}"; do
    call=${failure%%:*} action=${failure#*:}
    later=
    if [[ $action = *+ ]]; then later=+ action=${action%+}; fi
    rm -rf "$run"
    if [ -z "${calls[$call]:-}" ]; then
      calls[$call]=$(count "$call" "$VORONOI" "${quantize[@]}")
      rm -rf "$run"
    fi
    fault="$call $work/ $(somewhere "${calls[$call]}")$later $action"
    under "$fault" "$VORONOI" "${quantize[@]}"
    echo "$fault of ${calls[$call]}: exit $code"
    ended_well "$fault"
    case $action in short | EINTR) exits 0 "$fault" ;; esac
    if [ "$code" = 0 ]; then same_result "$fault"; fi
    finishes "$fault"
  done
done

# A disk that one rank of two does not reach.
for fault in "read block_ 2+ EIO" "write model.layers 2+ EIO" "write,fsync block_ 3 EIO" "open model.safetensors 1 EIO"; do
  rm -rf "$run"
  export VORONOI_FAULT_RANK=1
  under "$fault" mpirun --bind-to none -n 2 "$VORONOI" "${quantize[@]}"
  unset VORONOI_FAULT_RANK
  echo "$fault on rank 1: exit $code"
  ended_well "$fault"
  # Another rank can read what this one cannot; what cannot be written ends the run.
  if [[ $fault = read* ]]; then exits 0 "$fault"; else exits 74 "$fault"; fi
  if grep -q superseded "$work/stderr"; then complain "blamed on another start: $fault"; fi
  finishes "$fault"
done

# Commands that only read: the error, or the same words.
figure() { grep -o '"nll":[^,]*' "$work/stdout"; }
declare -A wanted
for place in "$run" "$run/export"; do
  bounded "$VORONOI" "${evaluate[@]}" --model "$place"
  exits 0 "the undisturbed evaluation of $place"
  wanted[$place]=$(figure)
done
for failure in open:EIO read:EIO read:short; do
  call=${failure%%:*} action=${failure#*:}
  for command in "verify $run" "status $run" "inspect $run" "inspect $work/model" "${evaluate[*]} --model $run" "${evaluate[*]} --model $run/export"; do
    # shellcheck disable=SC2086  # no path has a blank
    n=$(count "$call" "$VORONOI" $command)
    if [ "${n:-0}" = 0 ]; then continue; fi
    # shellcheck disable=SC2086
    under "$call $work/ $(somewhere "$n") $action" "$VORONOI" $command
    ended_well "$failure, $command"
    case $action in short | EINTR) exits 0 "$failure, $command" ;; esac
    if [ "$code" = 0 ] && [[ $command = eval* ]]; then [ "$(figure)" = "${wanted[${command##* }]}" ] || complain "another figure: $failure, $command"; fi
  done
done
