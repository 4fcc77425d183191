#!/usr/bin/env bash
# The Apptainer definition's steps on a bare Debian 12: %files, %post, %environment, %test and %runscript in this order, as apptainer would.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR source=chroot.sh
. "$(dirname "$0")/chroot.sh"
definition=$ROOT/cmake/package/voronoi.def
section() { awk -v name="%$1" '/^%/ { on = $1 == name; next } on' "$definition"; }
[ "$(sed -n 's/^From: debian:\([a-z]*\).*/\1/p' "$definition")" = "$suite" ] || fail "the definition is not of Debian's $suite"
known=" %files %post %environment %test %runscript "
while read -r name; do
  case $known in *" $name "*) ;; *) fail "$name is in the definition and not in this test" ;; esac
done < <(grep -o '^%[a-z]*' "$definition")

make_deb "$work/packages"
while read -r from to; do
  [ -n "$from" ] || continue
  mkdir -p "$root$to"
  # shellcheck disable=SC2086  # a pattern
  (cd "$work" && cp $from "$root$to") || fail "%files: $from"
done < <(section files)
step() {  # NAME ARGUMENTS...: a section as a script; errors end it, as in apptainer
  local name=$1
  shift
  { echo "set -e"; section environment; section "$name"; } >"$root/root/$name"
  inside sh "/root/$name" "$@" >"$work/$name" 2>&1 || { tail -n 20 "$work/$name"; fail "%$name"; }
}
step post
step test
grep -q "^voronoi [0-9]" "$work/test" || fail "%test printed no version"
[ -z "$(find "$root/opt" "$root/var/lib/apt/lists" -mindepth 1)" ] || fail "%post leaves packages or lists in the image"
tiny_model "$root/root"
step runscript quantize --model /root/model --run /root/run --calibration-text /root/text.txt "${calibration[@]}"
inside voronoi verify /root/run >/dev/null 2>&1 || fail "no whole run"
echo "the definition's steps ran on a bare Debian 12 in $SECONDS s"
