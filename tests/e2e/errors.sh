#!/usr/bin/env bash
# Bad input: one clear error that names file and remedy, the right exit code, nothing left behind.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
quantize() { expect "$1" "$VORONOI" quantize --run "$work/run" "${@:2}"; [ ! -e "$work/run" ] || fail "a run directory was left behind: ${*:2}"; }
text=(--calibration-text "$calibration_text" --calibration-sequences 2 --calibration-context 64)

# Every problem of the command line and the config file at once.
printf 'vector-length = banana\nno-such-key = 1\n' >"$work/bad.cfg"
quantize 2 --config "$work/bad.cfg" --model "$work/model" --centroids 255 --bogus 3 --method vtpq
says "no-such-key"; says "banana"; says "--bogus"; says "vtpq"
quantize 2 --model "$work/model"
says "--calibration-text"
quantize 2 "${text[@]}" --model "$work/model" --centroids 200
says "power of two"
quantize 2 "${text[@]}" --model "$work/model" --target asymmetric
says "only with --calibration sequential"
quantize 2 "${text[@]}" --model "$work/model" --target both
says "--target"
# An export that VPTQ's client could not load, where it is asked for by name.
character_tokenizer "$work/characters.json"
quantize 2 "${text[@]}" --model "$(tiny_model gpt-oss)" --tokenizer "$work/characters.json" --vector-length 4 --centroids 256 \
  --stages calibrate,quantize,export
says "export: .*gpt_oss"
expect 2 "$VORONOI" quantise
expect 2 "$VORONOI" eval --model "$work/model"
says "--text"

# Files.
quantize 5 "${text[@]}" --model "$work/nowhere"
says "$work/nowhere"
mkdir "$work/pickle"
cp "$work/model/config.json" "$work/pickle"
echo 'cos' >"$work/pickle/pytorch_model.bin"
quantize 3 "${text[@]}" --model "$work/pickle"
says "safetensors"
: >"$work/empty.txt"
quantize 3 --model "$work/model" --calibration-text "$work/empty.txt"
says "empty.txt"
quantize 3 --model "$work/model" --calibration-text "$calibration_text" --calibration-context 2000000
says "$calibration_text"
head -c 500000 "$work/model/model.safetensors" >"$work/cut" && cp -r "$work/model" "$work/truncated" && mv "$work/cut" "$work/truncated/model.safetensors"
quantize 3 "${text[@]}" --model "$work/truncated"
says "model.safetensors"
printf '{"text": "good"}\n{"no": 1}\n' >"$work/bad.jsonl"
expect 3 "$VORONOI" eval --model "$work/model" --text "$work/bad.jsonl"
says "bad.jsonl"; says "2"
expect 5 "$VORONOI" quantize --run /dev/null/run --model "$work/model" "${text[@]}"
says "/dev/null/run"
mkdir "$work/precious" && touch "$work/precious/thesis.tex"
expect 2 "$VORONOI" quantize --run "$work/precious" --model "$work/model" "${text[@]}"
says "precious"
[ "$(ls "$work/precious")" = thesis.tex ] || fail "wrote into a foreign directory"

# Bad numbers in the weights are found and named.
for edit in 'self_attn.k_proj.weight[3,5]=nan' 'mlp.up_proj.weight[7,9]=inf' 'input_layernorm.weight[2]=-inf'; do
  rm -rf "$work/damaged"
  cp -r "$work/model" "$work/damaged"
  python3 "$(dirname "$0")/../faults/damage.py" "$work/damaged/model.safetensors" "model.layers.0.$edit"
  expect 3 "$VORONOI" inspect "$work/damaged"
  says "layers.0"
done
python3 "$(dirname "$0")/../faults/damage.py" "$work/model/model.safetensors" 'model.layers.0.mlp.up_proj.weight[:,:]=0'
expect 0 "$VORONOI" inspect "$work/model"
if [ "$kind" = trained ]; then
  for case in nan inf neg-inf-norm huge-finite; do
    expect 3 "$VORONOI" inspect "$DATA/models/hostile/weights/$case"
    says "layers.0"
  done
  expect 0 "$VORONOI" inspect "$DATA/models/hostile/weights/all-zero-linear"
fi

# The same mistake on several ranks is printed once.
expect 2 ranks 3 quantize --run "$work/run" --model "$work/model" "${text[@]}" --centroids 200
[ "$(grep -c 'power of two' "$work/stderr")" = 1 ] || fail "the error was printed more than once"
# Help has examples and goes to stdout.
for command in plan quantize eval generate status inspect export verify report; do
  expect 0 "$VORONOI" $command --help
  grep -q "voronoi $command" "$work/stdout" || fail "$command --help has no example"
done
