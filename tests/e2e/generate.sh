#!/usr/bin/env bash
# Text: of the original as the real implementation writes it, of runs straight from their packed codes, the same from a checkpoint and on
# the emulated GPU.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
write() { expect 0 "$VORONOI" generate --prompt "Once upon a time" "$@"; }
write --model "$work/model" --max-tokens 60
if [ "$kind" = trained ]; then
  python3 - "$DATA/models/stories260K/golden.json" "$work/stdout" <<'PYTHON' || fail "another text than the golden one"
import json, sys
golden = json.load(open(sys.argv[1]))["greedy"]["text"]
text = open(sys.argv[2]).read().rstrip("\n")
sys.exit(not (len(text) > 100 and golden.startswith(text)))
PYTHON
fi
grep -q "60 tokens in .* a second" "$work/stderr" || fail "no speed told"

expect 0 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method voronoi --residual-centroids 16 --rounds 1
write --model "$work/run" --max-tokens 24
text=$(cat "$work/stdout")
write --model "$work/run/export" --max-tokens 24
[ "$(cat "$work/stdout")" = "$text" ] || fail "the checkpoint writes another text than its run"
write --model "$work/run" --max-tokens 24 --temperature 1 --seed 1
drawn=$(cat "$work/stdout")
[ "$drawn" != "$text" ] || fail "temperature changes nothing"
write --model "$work/run" --max-tokens 24 --temperature 1 --seed 1
[ "$(cat "$work/stdout")" = "$drawn" ] || fail "the same seed draws another text"
if [ -n "$EMULATED_CUDA" ]; then
  export VORONOI_CUDA_MODULE=$EMULATED_CUDA
  write --model "$work/run" --max-tokens 6 --device cuda --dtype f32
  [[ $text == "$(cat "$work/stdout")"* ]] || fail "the emulated GPU writes another text"
  unset VORONOI_CUDA_MODULE
fi

# Uniform codes, in natural order and with a permutation; lattice and trellis codes between rotations.
for method in rtn gptq quip_sharp trellis; do
  expect 0 "$VORONOI" quantize --run "$work/$method" "${common[@]}" --method $method --bits 4 --group-size 32
  write --model "$work/$method" --max-tokens 24
  text=$(cat "$work/stdout")
  [ "${#text}" -gt 40 ] || fail "$method writes next to nothing: $text"
  if [ -n "$EMULATED_CUDA" ]; then
    export VORONOI_CUDA_MODULE=$EMULATED_CUDA
    write --model "$work/$method" --max-tokens 6 --device cuda --dtype f32
    [[ $text == "$(cat "$work/stdout")"* ]] || fail "the emulated GPU writes another text of $method"
    unset VORONOI_CUDA_MODULE
  fi
done

expect 2 "$VORONOI" generate --model "$work/run"
expect 2 "$VORONOI" generate --model "$work/run" --prompt x --temperature -1
expect 5 "$VORONOI" generate --model "$work/none" --prompt x
echo "generate: passed"
