#!/usr/bin/env bash
# Whole runs of small random models of several architectures on the GPU's context (or its emulation), held against the CPU's: the same
# linears, nearly the same error, and the perplexity of the stored indices is the CPU's in fp32.
# shellcheck source=../e2e/common.sh
. "$(dirname "$0")/../e2e/common.sh"
character_tokenizer "$work/tokenizer.json"
text=$work/text.txt
head -c 8000 "$calibration_text" >"$text"
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$work/stdout" | head -n 1; }
mean_error() { sed -n 's/.*mean relative Hessian error \([0-9.e-]*\),.*/\1/p' "$1"; }

n_models=0
read -ra names <<<"${MODELS:-llama2 qwen3 mixtral gemma2 phi3}"
for name in "${names[@]}"; do
  model=$(tiny_model "$name")
  if [ -n "${BLOCKS:-}" ]; then  # the first so many of its own
    cp -r "$model" "$work/$name"
    chmod -R u+w "$work/$name"
    sed -i "s/\"num_hidden_layers\": [0-9]*/\"num_hidden_layers\": $BLOCKS/" "$work/$name/config.json"
    model=$work/$name
  fi
  options=(--model "$model" --tokenizer "$work/tokenizer.json" --calibration-text "$text" --calibration-sequences 3
    --calibration-context 20 --method voronoi --vector-length 4 --centroids 8 --residual-centroids 4 --rounds 1 --kmeans-iterations 3 --dtype f32)
  code=0
  "$VORONOI" quantize "${options[@]}" --run "$work/$name.gpu" --device cuda >"$work/gpu" 2>&1 || code=$?
  if [ $code != 0 ] && grep -q -e "no CUDA backend" -e "there is no GPU" "$work/gpu"; then skip machine "$(tail -n 1 "$work/gpu")"; fi
  [ $code = 0 ] || { cat "$work/gpu"; fail "$name: exit $code on the GPU"; }
  "$VORONOI" quantize "${options[@]}" --run "$work/$name.cpu" --device cpu >"$work/cpu" 2>&1
  [ "$(ls "$work/$name.gpu/layers")" = "$(ls "$work/$name.cpu/layers")" ] || fail "$name: other layers than on the CPU"
  awk -v a="$(mean_error "$work/cpu")" -v b="$(mean_error "$work/gpu")" 'BEGIN { exit !(a > 0 && b > 0 && b < 1.1 * a && a < 1.1 * b) }' ||
    { cat "$work/cpu" "$work/gpu"; fail "$name: errors of the CPU and of the GPU"; }
  expect 0 "$VORONOI" verify "$work/$name.gpu"
  evaluate=("$VORONOI" eval --model "$work/$name.gpu" --text "$text" --context 24 --windows 2 --json)
  expect 0 "${evaluate[@]}" --device cpu
  on_cpu=$(field nll)
  expect 0 "${evaluate[@]}" --device cuda --dtype f32
  awk -v a="$on_cpu" -v b="$(field nll)" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-8) }' || fail "$name: mean nll $on_cpu on the CPU, $(field nll) on the GPU"
  n_models=$((n_models + 1))
done
[ $n_models = ${#names[@]} ] || fail "only $n_models models"
echo "tiny models on the GPU: $n_models architectures as on the CPU"
