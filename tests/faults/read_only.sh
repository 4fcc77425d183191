#!/usr/bin/env bash
# Places that cannot be written: what only reads a run works there, wants no lock and writes nothing; what has to write says where it cannot.
# shellcheck source-path=SCRIPTDIR source=storage_common.sh
. "$(dirname "$0")/storage_common.sh"
need_mounts
trap 'umount "$work/sealed" 2>/dev/null || true; chmod -R u+w "$work"; rm -rf "$work"' EXIT
make_reference
mv "$work/reference" "$run"
bounded "$VORONOI" "${evaluate[@]}" --model "$run"
exits 0 "the undisturbed evaluation"
figure() { grep -o '"nll":[^,]*' "$work/stdout"; }
wanted=$(figure)
bounded "$VORONOI" report "$run"
grep -v '^written:' "$work/stdout" >"$work/report"
before=$(cd "$run" && find . -type f | sort | xargs sha256sum)

# read_it HOW: all that reads, of the run $place; $as is put before each command.
read_it() {
  local how=$1
  bounded "${as[@]}" "$VORONOI" verify "$place"
  exits 0 "verify, $how"
  bounded "${as[@]}" "$VORONOI" status "$place"
  exits 0 "status, $how"
  bounded "${as[@]}" "$VORONOI" inspect "$place"
  exits 0 "inspect, $how"
  bounded "${as[@]}" "$VORONOI" generate --model "$place" --prompt One --max-tokens 4
  exits 0 "generate, $how"
  bounded "${as[@]}" "$VORONOI" "${evaluate[@]}" --model "$place"
  exits 0 "eval, $how"
  [ "$(figure)" = "$wanted" ] || complain "another figure, $how"
  says "is read-only, so the figures are printed but not kept"
  bounded "${as[@]}" "$VORONOI" report "$place"
  exits 0 "report, $how"
  diff <(sed "s|$place|$run|g" "$work/stdout") "$work/report" || complain "another report, $how"
  says "is read-only, so the report is printed but not kept"
  bounded "${as[@]}" "$VORONOI" export "$place" --out "$work/open/export"
  exits 0 "export elsewhere, $how"
  rm -r "$work/open/export"
}
# refuse_it HOW: all that has to write there.
refuse_it() {
  local how=$1 reason='Read-only file system\|Permission denied'
  bounded "${as[@]}" "$VORONOI" "${quantize[@]/$run/$place}"
  exits 5 "quantize, $how"
  says "$place.*\($reason\).*; check"
  bounded "${as[@]}" "$VORONOI" "${quantize[@]/$run/$place/new}"
  exits 5 "a new run, $how"
  says "$place/new.*\($reason\).*; check"
  bounded "${as[@]}" "$VORONOI" export "$place" --out "$place/elsewhere"
  exits 5 "export, $how"
  says "$place/elsewhere.*\($reason\)"
  bounded "${as[@]}" "$VORONOI" report "$place" --out "$place/tables"
  exits 5 "report --out, $how"
  says "$place/tables.*\($reason\).*; check"
}

mkdir -m 777 "$work/open"
mkdir "$work/sealed"
mount --bind "$run" "$work/sealed"
mount -o remount,ro,bind "$work/sealed"
place=$work/sealed as=(env)
read_it "read-only mount"
refuse_it "read-only mount"
umount "$work/sealed"

# Permission bits do not bind root; another user may also be locked out of a single folder.
if [ "$(id -u)" = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups "$VORONOI" --version >/dev/null 2>&1; then
  chmod 755 "$work"
  place=$run as=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$work/open" TMPDIR="$work/open")
  read_it "another user's run"
  refuse_it "another user's run"
else
  echo "not done as another user: no such user can run the program here"
fi
[ "$before" = "$(cd "$run" && find . -type f | sort | xargs sha256sum)" ] || fail "something was written"

# Read-only from some moment of the run on (a file system that met an error goes read-only).
mv "$run" "$work/reference"
for at in 3 60 170 260 380; do
  fault="any,create $run $at+ EROFS"
  rm -rf "$run"
  under "$fault" "$VORONOI" "${quantize[@]}"
  ended_well "$fault"
  exits 5 "$fault"
  says "Read-only file system; check its permissions"
  finishes "$fault"
done
