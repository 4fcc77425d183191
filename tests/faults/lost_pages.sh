#!/usr/bin/env bash
# The model is mapped: cut while a run reads it, the run ends with an error that names it, on one rank and on two; and goes on once it is
# back. Cut within its last page there is no signal, and the zeros that are read there must not count.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
quantize=(quantize --run "$run" "${settings[@]}" --method voronoi --rounds 8 --residual-centroids 16 --kmeans-iterations 30)
make_reference
model=$work/model/model.safetensors
cp "$model" "$work/whole"

for n in 1 2; do
  for size in 65536 $(($(stat -c %s "$model") - 7)); do
    rm -rf "$run"
    mpirun --bind-to none -n $n "$VORONOI" "${quantize[@]}" >"$work/stdout" 2>"$work/stderr" &
    launcher=$!
    for _ in $(seq 1000); do
      if grep -q '"type":"layer"' "$run/journal.log" 2>/dev/null; then break; fi
      sleep 0.01
    done
    truncate -s "$size" "$model"
    started=$SECONDS code=0
    wait $launcher || code=$?
    [ $((SECONDS - started)) -le 15 ] || complain "the job went on for $((SECONDS - started)) s"
    # A page that is gone is the node's fault as far as a rank can tell; a file that became another one is not.
    wanted=5
    if grep -q "cannot be read any more" "$work/stderr"; then wanted=74; fi
    exits $wanted "$n ranks, the model cut to $size bytes"
    says "error: .*$model: \(cannot be read any more\|was changed or cut\).*run the same command again"
    cp "$work/whole" "$model"
    finishes "$n ranks, the model cut to $size bytes"
  done
done
