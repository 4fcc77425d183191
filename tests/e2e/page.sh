#!/usr/bin/env bash
# report.html: written with the other files and checked like them, and shown by a browser as it should be: no error on its console, no
# sideways scrolling on a phone, light and dark, names as they are.
. "$(dirname "$0")/common.sh"
run="$work/runs/<img src=x onerror=console.error(1)>&'\""
mkdir "$work/runs"
expect 0 ranks 2 quantize --run "$run" "${common[@]}" --method voronoi --residual-centroids 16 --hessian-window 2 \
  --validate-text "$evaluation_text" --validate-join wikitext --validate-context 128 --validate-windows 4
expect 0 "$VORONOI" quantize --run "$work/runs/gptq" "${common[@]}" --method gptq --bits 3
expect 0 ranks 2 eval --model "$work/runs/gptq" --text "$evaluation_text" --join wikitext --context 128 --windows 4 --kl
grep -q "^| evaluation.txt | perplexity | [0-9.]* | [0-9.]* | text.*context 128" "$run/export/README.md" || fail "the export's card lacks the figures"
for file in report.html report.md report.json; do [ -s "$run/report/$file" ] || fail "no $file in the run"; done
expect 0 "$VORONOI" verify "$run"

# A page named, and three files that are one report.
expect 0 "$VORONOI" report "$run" "$work/runs/gptq" --out "$work/tables/both.html"
[ "$(cd "$work/tables" && echo *)" = "both.html both.json both.md" ] || fail "files of a named page: $(ls "$work/tables")"
for words in "perplexity over true bits a weight" "KL divergence (nats a token)"; do
  grep -qF "$words" "$work/tables/both.html" || fail "the page lacks: $words"
done
expect 0 "$VORONOI" report "$run" --out "$work/tables/one"
[ "$(cd "$work/tables/one" && echo *)" = "report.html report.json report.md" ] || fail "files of a named directory"
expect 0 "$VORONOI" report "$run" # which knows the run's end, as its own stage could not
cp "$run/report/report.html" "$work/kept.html"
sed -i 's/voronoi/Voronoi/' "$run/report/report.html"
expect 3 "$VORONOI" verify "$run"
grep -q "report.html: is not the one" "$work/stdout" "$work/stderr" || fail "a changed page is not noticed"
expect 0 "$VORONOI" report "$run"
cmp "$run/report/report.html" "$work/kept.html" || fail "the same run gives another page"
expect 0 "$VORONOI" verify "$run"

command -v chromium >/dev/null || skip missing "no chromium"
# browse PAGE WIDTH ARGUMENT...: the page in a frame of that width, since a window has a least one.
browse() {
  local page=$1 width=$2
  shift 2
  cat >"$work/frame.html" <<HTML
<!DOCTYPE html><body style="margin:0"><iframe id="frame" src="$page" style="border:0;width:${width}px;height:900px"></iframe><p id="told"></p>
<script>
frame.onload = () => {
  const page = frame.contentDocument.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  told.textContent = "is " + frame.contentWindow.innerWidth + " wide, scrolls over " + page.scrollWidth + ", pictures " +
    page.querySelectorAll("svg").length + ", images " + page.querySelectorAll("img").length;
};
</script>
HTML
  timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --allow-file-access-from-files \
    --user-data-dir="$work/profile" --enable-logging=stderr --window-size="$width,900" "$@" "file://$work/frame.html" 2>"$work/browser"
  ! grep -a "CONSOLE" "$work/browser" || fail "$page: errors on the console"
}
# looks PNG: not blank.
looks() {
  python3 - "$1" <<'PY' || fail "$1: is blank"
import struct, sys, zlib
data, at, packed = open(sys.argv[1], "rb").read(), 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at:at + 8])
    packed += data[at + 8:at + 8 + size] if kind == b"IDAT" else b""
    at += size + 12
assert len(set(zlib.decompress(packed))) > 60 and len(packed) > 10000, len(packed)
PY
}
for page in both one/report; do
  for width in 400 800 1600; do
    told=$(browse "$work/tables/$page.html" $width --dump-dom | grep -o "is [0-9]* wide[^<]*")
    [[ "$told" =~ ^"is $width wide, scrolls over $width, pictures "[1-9][0-9]*", images 0"$ ]] || fail "$page at $width: $told"
    browse "$work/tables/$page.html" $width --screenshot="$work/$width.png" >/dev/null
    looks "$work/$width.png"
  done
done
browse "$work/tables/both.html" 1600 --blink-settings=preferredColorScheme=0 --screenshot="$work/dark.png" >/dev/null
looks "$work/dark.png"
! cmp -s "$work/1600.png" "$work/dark.png" || fail "the dark page is the light one"
if [ -n "${KEEP_PAGES:-}" ]; then cp -r "$work/tables" "$KEEP_PAGES"; fi
