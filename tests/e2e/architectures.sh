#!/usr/bin/env bash
# Every architecture through the program: quantized on 1, 2 and 3 ranks to the same bytes, evaluated, inspected, reported.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
tokenizer=$work/tokenizer.json
character_tokenizer "$tokenizer"
text=$work/text.txt
head -c 40000 "$calibration_text" >"$text"
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$work/stdout" | head -n 1; }

# architecture layers: linears in all, or one expert's for each expert.
n_models=0
while read -r -u 3 name layers; do  # mpirun reads the standard input
  model=$(tiny_model "$name")
  for method in "voronoi --vector-length 2 --centroids 16 --residual-centroids 4" "gptq --bits 8 --group-size 0"; do
    read -ra words <<<"--method $method"
    options=(--model "$model" --tokenizer "$tokenizer" --calibration-text "$text" --calibration-sequences 12
      --calibration-context 48 "${words[@]}")
    rm -rf "$work"/run*
    expect 0 ranks 1 quantize --run "$work/run1" "${options[@]}" --threads 1
    expect 0 ranks 2 quantize --run "$work/run2" "${options[@]}"
    same_layers "$work/run1" "$work/run2"
    [ "$(ls "$work/run1/layers" | wc -l)" = "$layers" ] || fail "$name: $(ls "$work/run1/layers" | wc -l) layers, not $layers"
  done
  expect 0 ranks 3 quantize --run "$work/run3" "${options[@]}" --hessian-window 1
  same_layers "$work/run1" "$work/run3"
  expect 0 "$VORONOI" verify "$work/run2"
  expect 0 ranks 2 eval --model "$work/run2" --text "$text" --context 64 --windows 20 --json
  quantized=$(field nll)
  reference=$(field reference_perplexity)
  expect 0 "$VORONOI" eval --model "$model" --tokenizer "$tokenizer" --text "$text" --context 64 --windows 20 --json
  [ "$(field perplexity)" = "$reference" ] || fail "$name: another reference beside the run"
  # At 8 bits a weight it is nearly the same function still, which a linear in the wrong place would not be.
  awk -v q="$quantized" -v r="$(field nll)" 'BEGIN { exit !(q - r < 0.01 && r - q < 0.01 && q != r) }' ||
    fail "$name: mean nll $quantized quantized, $(field nll) before"
  expect 0 "$VORONOI" inspect "$model" --json
  case $name in *moe | mixtral | gpt-oss | deepseek* | qwen3-next) [ -n "$(field experts)" ] || fail "$name: inspect names no experts" ;; esac
  expect 0 "$VORONOI" report "$work/run2" --out "$work/report"
  if grep -q "Starved" "$work/report/report.md"; then fail "$name: starved experts in a calibration of 576 tokens"; fi
  n_models=$((n_models + 1))
done 3<<'END'
mixtral 32
qwen2-moe 44
qwen3-moe 29
gemma 14
gemma2 21
phi3 8
gpt-oss 48
deepseek-v3-noqlora 44
qwen3-next 62
END
[ $n_models = 9 ] || fail "only $n_models models"

# Starved experts are named while it runs, in the journal, in the report; and sequential calibration has them too.
for calibration in independent "sequential --target asymmetric --hessian guided"; do
  read -ra words <<<"$calibration"
  options=(--model "$(tiny_model qwen3-moe)" --tokenizer "$tokenizer" --calibration-text "$text" --calibration-sequences 2
    --calibration-context 3 --method rtn --bits 4 --calibration "${words[@]}")
  rm -rf "$work"/run*
  expect 0 ranks 2 quantize --run "$work/run" "${options[@]}"
  grep -q "pool of the layer's experts" "$work/stderr" || { cat "$work/stderr"; fail "no word of starved experts"; }
  grep -q '"pooled_tokens":18' "$work/run/journal.log" || fail "no starved expert in the journal"
  expect 0 "$VORONOI" report "$work/run" --out "$work/report"
  grep -q "Starved experts: .* of 29 layers" "$work/report/report.md" || fail "the report lists no starved expert"
  expect 0 ranks 3 quantize --run "$work/run3" "${options[@]}"
  same_layers "$work/run" "$work/run3"
done

# DeepSeek-V3 scaled down, with all kinds of its layers, to a checkpoint that has its layer for multi-token prediction as it was.
model=$work/deepseek
python3 "$support/random_model.py" "$model" architecture=deepseek-v3
rm -rf "$work"/run*
expect 0 ranks 2 quantize --model "$model" --run "$work/run" --calibration-text "$text" --calibration-sequences 12 --calibration-context 48 \
  --method voronoi --vector-length 4 --centroids 256 --stages calibrate,quantize,export
[ "$(ls "$work/run/layers" | wc -l)" = 208 ] || fail "deepseek-v3: $(ls "$work/run/layers" | wc -l) layers"
expect 0 "$VORONOI" eval --model "$work/run" --text "$text" --context 64 --windows 20 --json
run_nll=$(field nll)
expect 0 "$VORONOI" eval --model "$work/run/export" --text "$text" --context 64 --windows 20 --json
[ "$(field nll)" = "$run_nll" ] || fail "the export of deepseek-v3 is another model: $(field nll), not $run_nll"
python3 - "$model/model.safetensors" "$work/run/export/model.safetensors" <<'PYTHON' || fail "the export of deepseek-v3 lost its further layer"
import json, sys
def further(path):
    data = open(path, "rb").read()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:8 + length])
    return {name: (entry["dtype"], entry["shape"], data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in entries.items() if name.startswith("model.layers.2.")}
before = further(sys.argv[1])
sys.exit(len(before) != 210 or further(sys.argv[2]) != before)
PYTHON

# With all rows for all experts none is starved, the log and the journal say so, and the bytes are those of any number of ranks.
options=(--model "$(tiny_model qwen3-moe)" --tokenizer "$tokenizer" --calibration-text "$text" --calibration-sequences 4
  --calibration-context 16 --method rtn --bits 4)
rm -rf "$work"/run*
expect 0 ranks 1 quantize --run "$work/run1" "${options[@]}" --calibration-experts all
grep -q "block 0: \([0-9]*\) of \1 experts have a quarter .* least 64, median 64" "$work/stderr" || { cat "$work/stderr"; fail "no word of covered experts"; }
grep -q "64 tokens in .* tokens a second" "$work/stderr" || fail "no word of the speed"
grep -q '"type":"expert_coverage","block":0' "$work/run1/journal.log" || fail "no coverage in the journal"
! grep -q pooled_tokens "$work/run1/journal.log" || fail "a starved expert where all see all tokens"
for n in 2 3; do
  expect 0 ranks "$n" quantize --run "$work/run$n" "${options[@]}" --calibration-experts all
  same_layers "$work/run1" "$work/run$n"
done
expect 2 "$VORONOI" quantize --run "$work/run1" "${options[@]}" # another calibration
expect 0 "$VORONOI" quantize --run "$work/run1"
expect 0 "$VORONOI" report "$work/run1" --out "$work/report"
grep -q "Tokens that experts got" "$work/report/report.md" || fail "no coverage in the report"
