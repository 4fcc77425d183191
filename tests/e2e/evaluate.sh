#!/usr/bin/env bash
# Evaluation: the golden perplexity, the same figure on any number of ranks, and everything that eval, report and status promise.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
text=(--text "$evaluation_text" --join wikitext --context 512 --windows 16 --bos never)
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$work/stdout" | head -n 1; }
expect 0 "$VORONOI" eval --model "$work/model" "${text[@]}" --json
golden=$(field perplexity)
if [ "$kind" = trained ]; then
  golden=107.7473531525854
  awk -v a="$(field perplexity)" -v b=$golden 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }' || fail "perplexity $(field perplexity), golden $golden"
fi
[ "$(field bits_true)" = null ] || fail "bits of an unquantized model"
expect 0 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method voronoi --residual-centroids 16
cp "$work/stdout" "$work/quantize-stdout"
expect 0 "$VORONOI" eval --model "$work/run" "${text[@]}" --json
one=$(cat "$work/stdout")
quantized=$(field perplexity)
# A random model knows nothing of the text that it could lose.
awk -v a="$quantized" -v b="$golden" -v kind="$kind" 'BEGIN { exit !(a < 1.3 * b && (a > b || kind == "random" && a != b && a > b / 1.3)) }' || fail "quantized perplexity $quantized"
awk -v a="$(field reference_perplexity)" -v b="$golden" 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }' || fail "no reference beside it"
awk -v a="$(field bits_true)" 'BEGIN { exit !(a > 3 && a < 8) }' || fail "true bits $(field bits_true)"
expect 0 ranks 3 eval --model "$work/run" "${text[@]}" --json
[ "$(field nll)" = "$(sed -n 's/.*"nll":\([^,]*\).*/\1/p' <<<"$one")" ] || fail "another figure on 3 ranks"
for name in model text text_sha256 join context windows tokens bos dtype nll perplexity bits_true bits_nominal; do
  grep -q "\"$name\":" <<<"$one" || fail "eval --json lacks $name"
done
expect 0 "$VORONOI" report "$work/run" --out "$work/report"
grep -q "$(awk -v a="$golden" 'BEGIN { printf "%.3f", a }')" "$work/report/report.md" || fail "the report lacks the reference"
grep -q '"method": "voronoi"' "$work/report/report.json" || fail "report.json lacks the method"
expect 0 "$VORONOI" status "$work/run"
grep -q "finished" "$work/stdout" || fail "status does not say finished"
expect 0 "$VORONOI" status "$work/run" --json
for path in "$work/run" "$work/model" "$work/model/model.safetensors" "$work/run/layers/model.layers.0.mlp.down_proj.h5" "$work/run/journal.log"; do
  expect 0 "$VORONOI" inspect "$path" --json
done
# Hessians that one run kept serve another method, and give what it would compute itself.
expect 0 "$VORONOI" quantize --run "$work/keep" "${common[@]}" --method rtn --keep-hessians
expect 0 "$VORONOI" quantize --run "$work/taken" "${common[@]}" --method voronoi --residual-centroids 16 --hessians-from "$work/keep"
same_layers "$work/run" "$work/taken"
