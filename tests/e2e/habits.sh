#!/usr/bin/env bash
# What users bring: texts under any name, models and texts that moved, companions of a model that an export must not lose, windows beyond a
# model's positions, spellings of other programs.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,}\"]*\).*/\1/p" "$work/stdout" | head -n 1; }
evaluate() { expect 0 "$VORONOI" eval --context 64 --windows 4 --json "$@"; }

# The same documents in lines, in one array, packed, with a byte order mark, under names that say nothing or something else.
mkdir "$work/texts"
python3 - "$evaluation_text" "$work/texts" <<'PYTHON'
import gzip, json, sys
text, out = open(sys.argv[1], encoding="utf-8").read()[:20000], sys.argv[2]
documents = [{"text": text[at:at + 900], "id": at} for at in range(0, len(text), 900)]
lines = "".join(json.dumps(d) + "\n" for d in documents).encode()
files = {"a.jsonl": lines, "b.json": lines, "c": lines, "d.json": json.dumps(documents, indent=1).encode(), "e.json.gz": gzip.compress(lines),
         "f.txt": b"\xef\xbb\xbf" + lines, "g.ndjson": b"".join(json.dumps({"content": d["text"]}).encode() + b"\n" for d in documents)}
for name, content in files.items(): open(f"{out}/{name}", "wb").write(content)
PYTHON
evaluate --model "$work/model" --text "$work/texts/a.jsonl"
figure=$(field value)
for text in b.json c d.json e.json.gz f.txt g.ndjson; do
  evaluate --model "$work/model" --text "$work/texts/$text"
  [ "$(field join) $(field value)" = "jsonl $figure" ] || fail "$text is read as another text"
done
# A pipe is read to its end by one rank; several would get a part each.
evaluate --model "$work/model" --text <(gzip -c "$work/texts/a.jsonl")
[ "$(field join) $(field value)" = "jsonl $figure" ] || fail "a pipe is read as another text"
mkfifo "$work/texts/fifo"
expect 3 ranks 2 eval --model "$work/model" --text "$work/texts/fifo"
says "is a pipe, of which each of 2 ranks"
head -c 3000 /dev/urandom >"$work/texts/noise"
expect 3 "$VORONOI" quantize "${common[@]}" --calibration-text "$work/texts/noise" --run "$work/none"
says "texts/noise"
expect 5 "$VORONOI" quantize --model "$work/model" --calibration-text "$work/texts/gone" --run "$work/none"
says "--calibration-text (where a text moved"

# Beyond the positions that a model was made for, figures say so.
cp -r "$work/model" "$work/short"
sed -i 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 32/' "$work/short/config.json"
evaluate --model "$work/short" --text "$evaluation_text"
says "is made for 32 positions"
[ "$(field beyond_positions)" = 32 ] || fail "the record does not say that windows are too long"
evaluate --model "$work/model" --text "$evaluation_text"
[ -z "$(field beyond_positions)" ] || fail "windows within the positions are called too long"

# A model with companions, quantized, exported, moved.
mkdir "$work/model/additional_chat_templates"
echo '{{ tools }}' >"$work/model/additional_chat_templates/tool_use.jinja"
echo 'some terms' >"$work/model/LICENSE"
echo 'from .words import X' >"$work/model/tokenization_x.py"
echo 'X = 1' >"$work/model/words.py"
python3 - "$work/model" <<'PYTHON'
import json, os, sys
folder = sys.argv[1]
config = json.load(open(folder + "/config.json"))
config["auto_map"] = {"AutoConfig": "configuration_x.X"}
json.dump(config, open(folder + "/config.json", "w"))
path = folder + "/tokenizer_config.json"
settings = json.load(open(path)) if os.path.exists(path) else {}
settings["auto_map"] = {"AutoTokenizer": ["tokenization_x.X", None]}
json.dump(settings, open(path, "w"))
PYTHON
expect 0 "$VORONOI" quantize "${common[@]}" --method vptq --kmeans-iterations 3 --run "$work/run"
export=$work/run/export
for file in LICENSE tokenization_x.py words.py additional_chat_templates/tool_use.jinja; do
  cmp "$work/model/$file" "$export/$file" || fail "$file is left behind"
done
! grep -q auto_map "$export/config.json" || fail "the export names code of the model that is not there"
grep -q auto_map "$export/tokenizer_config.json" || fail "the code of the tokenizer is there and not named"
expect 0 "$VORONOI" verify "$export"
echo 'other terms' >"$export/additional_chat_templates/tool_use.jinja"
expect 3 "$VORONOI" verify "$export"
rm "$work/model/words.py"
expect 0 "$VORONOI" export "$work/run" --out "$work/without"
says "names code that is not in the folder"
! grep -q auto_map "$work/without/tokenizer_config.json" || fail "the export names code that is not there"

evaluate --model "$work/run" --text "$evaluation_text"
figure=$(field value)
mv "$work/model" "$work/moved"
expect 5 "$VORONOI" eval --model "$work/run" --text "$evaluation_text"
says "$work/run: was made from the model $work/model, which is not there any more"
evaluate --model "$work/run" --original "$work/moved" --text "$evaluation_text"
[ "$(field value)" = "$figure" ] || fail "another figure where the model moved"
expect 0 "$VORONOI" generate --model "$work/run" --original "$work/moved" --prompt "a" --max-tokens 2
expect 0 "$VORONOI" export "$work/run" --model "$work/moved" --out "$work/out"
cmp "$work/out/model.safetensors" "$work/without/model.safetensors" || fail "another export where the model moved"
expect 3 "$VORONOI" export "$work/run" --model "$work/short" --out "$work/other"
says "is not the model that"
mv "$calibration_text" "$work/moved.txt"
expect 0 "$VORONOI" quantize --run "$work/run" --model "$work/moved" --calibration-text "$work/moved.txt" --calibration-sequences 12 \
  --calibration-context 128 --method vptq --kmeans-iterations 3
evaluate --model "$work/run" --text "$evaluation_text"

expect 2 "$VORONOI" eval -model "$work/moved" --text "$evaluation_text"
says "'-model': write --model"
expect 2 "$VORONOI" quantize --calibration_text x
says "write --calibration-text"

# Several texts by weight, conversations through the model's template, the same window once; and what each text gave.
model=$work/moved
python3 - "$work" <<'PYTHON'
import json, sys
work = sys.argv[1]
lines = open(f"{work}/moved.txt", encoding="utf-8", errors="replace").read().split("\n")
text = [line for line in lines if len(line) > 20]
with open(f"{work}/chat.jsonl", "w") as out:
    for i in range(0, min(len(text) - 1, 400), 2):
        out.write(json.dumps({"messages": [{"role": "user", "content": text[i]}, {"role": "assistant", "content": [{"type": "text", "text": text[i + 1]}]}]}) + "\n")
open(f"{work}/again.txt", "w").write(" a" * 30000)
PYTHON
texts=(--calibration-text "$work/moved.txt" --calibration-text "$work/chat.jsonl" --calibration-text "$work/again.txt")
options=(--model "$model" "${texts[@]}" --calibration-sequences 16 --calibration-context 32 --method rtn --bits 4)
rm -f "$model/chat_template.jinja" "$model/additional_chat_templates/tool_use.jinja"
weights=(--calibration-weights "2,0.5,1.5")
expect 3 "$VORONOI" quantize "${options[@]}" "${weights[@]}" --run "$work/mixed"
says "chat.jsonl: line 1: is a conversation (.messages.), and $model has no chat template"
cat >"$model/chat_template.jinja" <<'JINJA'
{%- for message in messages %}
    {{- "<|" ~ message.role ~ "|>\n" + message.content | trim + eos_token | default("") + "\n" }}
{%- endfor %}
JINJA
expect 0 ranks 2 quantize "${options[@]}" "${weights[@]}" --run "$work/mixed"
says "moved.txt: 8 windows, 256 tokens"; says "chat.jsonl: 2 windows, 64 tokens"; says "windows left out, with the tokens of one before"
grep -q '"type":"calibration_text","number":2,.*"weight":0.5,"windows":2' "$work/mixed/journal.log" || fail "the journal does not tell what texts gave"
grep -q '"duplicates": *"dropped"' "$work/mixed/run.json" || fail "the identity says nothing of duplicates"
expect 0 "$VORONOI" status "$work/mixed"
grep -q "2 windows, 64 tokens of .*chat.jsonl" "$work/stdout" || fail "status does not tell what texts gave"
grep -q "| .*chat.jsonl | 0.5 | 2 | 64 |" "$work/mixed/report/report.md" || fail "the report does not tell what texts gave"
expect 0 ranks 3 quantize --run "$work/mixed"
expect 2 "$VORONOI" quantize "${options[@]}" --calibration-weights 1,1,1 --run "$work/mixed"
says "calibration"
expect 2 "$VORONOI" quantize "${options[@]}" --calibration-weights 1,1 --run "$work/other-mix"
says "2 weight(s) for 3 text(s)"
expect 0 "$VORONOI" quantize --model "$model" --calibration-text "$work/again.txt" --calibration-sequences 8 --calibration-context 32 \
  --method rtn --bits 4 --calibration-duplicates keep --run "$work/kept"
# Its identity is that of earlier versions, which looked for none: a start that does not say so takes no window out either.
expect 0 "$VORONOI" quantize --model "$model" --calibration-text "$work/again.txt" --calibration-sequences 8 --calibration-context 32 \
  --method rtn --bits 4 --run "$work/kept"

# A list of texts; what it lacks, and where it may lie.
expect 2 "$VORONOI" quantize --model "$model" --calibration-preset nothing --run "$work/listed"
says "neither a known list (debian"
mkdir "$work/lists"
echo '{"texts": [{"file": "moved.txt", "weight": 3}, {"file": "again.txt", "get": "ask for it"}]}' >"$work/lists/mine.json"
options=(--model "$model" --calibration-preset "$work/lists/mine.json" --calibration-sequences 8 --calibration-context 32 --method rtn --bits 4)
expect 2 "$VORONOI" quantize "${options[@]}" --run "$work/listed"
says "again.txt is not there: ask for it"
expect 0 "$VORONOI" quantize "${options[@]}" --calibration-data "$work" --run "$work/listed"
says "moved.txt: 6 windows"
expect 0 env VORONOI_DATA="$work" "$VORONOI" quantize "${options[@]}" --dry-run --run "$work/listed2"
echo "habits: passed"
