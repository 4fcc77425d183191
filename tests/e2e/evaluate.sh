#!/usr/bin/env bash
# Evaluation: the golden perplexity, the same figure on any number of ranks, and everything that eval, report and status promise.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
if [ "$kind" = trained ]; then evaluation_text=$DATA/wikitext2/wiki.test.raw; fi  # all of it, of which the golden figure is
text=(--text "$evaluation_text" --join wikitext --context 512 --windows 16 --bos never)
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$work/stdout" | head -n 1; }
expect 0 "$VORONOI" eval --model "$work/model" "${text[@]}" --json
golden=$(field perplexity)
if [ "$kind" = trained ]; then
  golden=107.7473531525854
  awk -v a="$(field perplexity)" -v b="$golden" 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }' || fail "perplexity $(field perplexity), golden $golden"
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
# Asked again, a run tells the figures that it keeps; without them they are computed.
expect 0 "$VORONOI" eval --model "$work/run" "${text[@]}" --json
[ "$(cat "$work/stdout")" = "$one" ] || fail "what was evaluated was evaluated again"
forget() { rm -f "$work"/run/evaluations/*.json; }
forget
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
expect 0 "$VORONOI" quantize --run "$work/keep" "${common[@]}" --method rtn --hessian guided --keep-hessians
expect 0 "$VORONOI" quantize --run "$work/taken" "${common[@]}" --method voronoi --residual-centroids 16 --hessians-from "$work/keep"
same_layers "$work/run" "$work/taken"
# Interrupted in the middle of the reference and of the quantized weights, killed once, the same command goes on with the windows it has
# kept, to the same figures.
plain() { sed 's/"seconds":[^,}]*//' "$1"; }
again=("$VORONOI" eval --model "$work/run" "${text[@]}" --json --batch-windows 1)
rm -rf "$work/run/evaluations"
windows() { sed 's/.*"rows":\[\(.*\)\].*/\1/' "$1" | grep -o '\[[^]]*\]' | wc -l; }
for stop in "4 75" "2 75" "3 137" "10 75"; do
  read -r nth wanted <<<"$stop"
  start_held "rename .windows $nth" "$work/stderr" "${again[@]}"
  if [ "$wanted" = 75 ]; then kill -USR1 $pid; else kill -KILL $pid; fi
  go_on
  ends "$wanted" "$work/stderr"
  [ ! -s "$work/stdout" ] || fail "figures of an interrupted evaluation"
done
kept=0
for file in "$work"/run/evaluations/*.windows; do kept=$((kept + $(windows "$file"))); done
[ "$kept" = 18 ] || fail "$kept windows are kept, not 4 + 2 + 2 and 10 more"
expect 0 ranks 2 eval --model "$work/run" "${text[@]}" --json --batch-windows 3
# shellcheck disable=SC2001  # a pattern, not a text
[ "$(plain "$work/stdout")" = "$(sed 's/"seconds":[^,}]*//' <<<"$one")" ] || fail "an interrupted evaluation has another figure"
[ "$(ls "$work"/run/evaluations/*.windows | wc -l)" = 1 ] || fail "more is kept behind the end than the reference"
# How far from the unquantized model, in one pass: the same perplexities, on any number of ranks, and interrupted as well.
metric() { grep "\"metric\":\"$1\"" "$work/stdout" | sed -n 's/.*"value":\([^,}]*\).*/\1/p'; }
expect 0 "$VORONOI" eval --model "$work/run" "${text[@]}" --json --kl
plain "$work/stdout" >"$work/kl"
[ "$(field nll)" = "$(sed -n 's/.*"nll":\([^,]*\).*/\1/p' <<<"$one")" ] || fail "another perplexity beside the divergence"
[ "$(field reference_perplexity)" = "$(sed -n 's/.*"reference_perplexity":\([^,}]*\).*/\1/p' <<<"$one")" ] || fail "another reference beside the divergence"
awk -v kl="$(metric kl)" -v tail="$(metric kl_p99)" -v same="$(metric top1)" 'BEGIN { exit !(kl > 0 && tail > kl && same > 0.1 && same < 1) }' ||
  fail "divergence $(metric kl), 99th percentile $(metric kl_p99), same choices $(metric top1)"
grep -q '"metric":"kl".*"stderr":[0-9]' "$work/stdout" || fail "no standard error of the divergence"
forget
expect 0 ranks 3 eval --model "$work/run" "${text[@]}" --json --kl --batch-windows 2
[ "$(plain "$work/stdout")" = "$(cat "$work/kl")" ] || fail "another divergence on 3 ranks"
forget
for stop in "3 75" "2 137"; do
  read -r nth wanted <<<"$stop"
  start_held "rename .windows $nth" "$work/stderr" "${again[@]}" --kl
  if [ "$wanted" = 75 ]; then kill -USR1 $pid; else kill -KILL $pid; fi
  go_on
  ends "$wanted" "$work/stderr"
done
expect 0 ranks 2 eval --model "$work/run" "${text[@]}" --json --kl
[ "$(plain "$work/stdout")" = "$(cat "$work/kl")" ] || fail "an interrupted comparison has another figure"
grep -q '| kl |' "$work/run/report/report.md" || fail "the report lacks the divergence"
# A checkpoint has to be told its original, and a model is no distance from itself.
expect 0 "$VORONOI" eval --model "$work/run/export" --reference "$work/model" "${text[@]}" --json --kl
# An export of a 32-bit model holds what is not quantized in 16 bits.
kl=$(grep '"metric":"kl"' "$work/kl" | sed -n 's/.*"value":\([^,}]*\).*/\1/p')
awk -v a="$(metric kl)" -v b="$kl" 'BEGIN { exit !((a - b) ^ 2 < (1e-3 * b) ^ 2) }' || fail "the export is $(metric kl) from its original, the run $kl"
expect 0 "$VORONOI" eval --model "$work/model" --reference "$work/model" "${text[@]}" --json --kl
awk -v kl="$(metric kl)" -v tail="$(metric kl_p99)" -v same="$(metric top1)" 'BEGIN { exit !(kl * kl < 1e-24 && tail * tail < 1e-18 && same == 1) }' || fail "a model is $(metric kl) from itself"
expect 2 "$VORONOI" eval --model "$work/model" "${text[@]}" --kl
grep -q -- "--reference" "$work/stderr" || fail "no word of --reference"
# The reference of one text and protocol is computed once: by runs evaluated together or after one another, and by those that share a cache.
expect 0 "$VORONOI" eval --model "$work/keep" --model "$work/run" "${text[@]}" --json --reference-cache "$work/references"
[ "$(sed -n 's/.*"reference_perplexity":\([^,}]*\).*/\1/p' "$work/stdout" | sort -u | wc -l)" = 1 ] || fail "two references"
[ "$(ls "$work/references" | wc -l)" = 1 ] || fail "the cache holds $(ls "$work/references")"
before=$(stat -c %i "$work"/references/*)
expect 0 "$VORONOI" eval --model "$work/taken" "${text[@]}" --json --reference-cache "$work/references"
[ "$(stat -c %i "$work"/references/*)" = "$before" ] || fail "the reference was computed again"
[ "$(field nll)" = "$(sed -n 's/.*"nll":\([^,]*\).*/\1/p' <<<"$one")" ] || fail "another figure of the same layers"
# A damaged one counts as none.
printf x | dd of="$(ls "$work"/references/*)" bs=1 seek=60 conv=notrunc status=none
expect 0 "$VORONOI" eval --model "$work/model" "${text[@]}" --json --reference-cache "$work/references"
grep -q "computed again" "$work/stderr" || fail "no word of the damaged reference"
awk -v a="$(field perplexity)" -v b="$golden" 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }' || fail "a figure from a damaged reference"
# Evaluations of one run at once: each tells its figure, the report holds all of them and is whole.
for n in 2 3 4 5; do
  "$VORONOI" eval --model "$work/run" "${text[@]/#16/$n}" --json >"$work/at-once-$n" 2>"$work/at-once-$n.err" &
done
wait
for n in 2 3 4 5; do
  grep -q "\"windows\":$n," "$work/at-once-$n" || { cat "$work/at-once-$n.err"; fail "evaluation of $n windows beside others"; }
  grep -q "\"windows\": $n," "$work/run/report/report.json" || fail "the report lacks the evaluation of $n windows"
done
expect 0 "$VORONOI" verify "$work/run"
