#!/usr/bin/env bash
# The Debian package on a bare Debian 12: it installs with all it needs, a tiny model is quantized under mpirun, evaluated and continued, man
# page, completion and batch script are where they belong; once it is removed nothing is left.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR source=chroot.sh
. "$(dirname "$0")/chroot.sh"
echo "bare Debian 12 after $SECONDS s"
make_deb "$work/packages"
version=$("$BUILD/voronoi" --version)
deb=$(echo "$work"/packages/voronoi_"${version#voronoi }"_*.deb)
[ -f "$deb" ] || fail "no package of $version: $(ls "$work/packages")"
for field in Maintainer Description Architecture; do [ -n "$(dpkg-deb --field "$deb" $field)" ] || fail "no $field"; done
[ "$(dpkg-deb --field "$deb" Architecture)" = "$(dpkg --print-architecture)" ] || fail "for another machine"

inside sh -c 'command -v voronoi mpirun' && fail "the chroot is not bare"
cp "$deb" "$root/root/voronoi.deb"
inside apt-get install -y -qq --no-install-recommends /root/voronoi.deb >"$work/apt" 2>&1 || { tail -n 20 "$work/apt"; fail "the package does not install"; }
echo "installed after $SECONDS s"
[ "$(inside voronoi --version)" = "$version" ] || fail "another version"
inside dpkg -L voronoi | sort >"$work/files"
check_man_page "$root/usr/share/man/man1/voronoi.1.gz" "$BUILD/voronoi"
# shellcheck disable=SC2016  # for the inner shell
offered=$(inside bash -c '. /usr/share/bash-completion/completions/voronoi; COMP_WORDS=(voronoi quan); COMP_CWORD=1; _voronoi; echo "${COMPREPLY[*]}"')
[ "$offered" = quantize ] || fail "completion offers '$offered'"

tiny_model "$root/root"
inside mpirun --bind-to none -n 2 voronoi quantize --model /root/model --run /root/run --calibration-text /root/text.txt "${calibration[@]}" \
  >"$work/out" 2>&1 || { cat "$work/out"; fail "quantize under mpirun"; }
inside voronoi verify /root/run >"$work/out" 2>&1 || { cat "$work/out"; fail "verify"; }
inside voronoi eval --model /root/run --text /root/text.txt --context 64 --windows 2 --json >"$work/out" 2>"$work/err" || { cat "$work/err"; fail "eval"; }
grep -q '"perplexity":[0-9]' "$work/out" || fail "no perplexity: $(cat "$work/out")"
inside voronoi generate --model /root/run --prompt 'The quick' --max-tokens 4 >"$work/out" 2>"$work/err" || { cat "$work/err"; fail "generate"; }
grep -q '^The quick' "$work/out" || fail "no text: $(cat "$work/out")"
# The batch script, started as Slurm's node would.
inside env SLURM_JOB_ID=7 SLURM_SUBMIT_DIR=/tmp /usr/share/voronoi/slurm/quantize.sbatch /root/model /root/batch --calibration-text /root/text.txt \
  --config /usr/share/voronoi/configs/voronoi-2bit.cfg "${calibration[@]}" >"$work/out" 2>&1 || { cat "$work/out"; fail "quantize.sbatch"; }
grep -q 'exit code 0, again: no' "$work/out" || fail "the launcher's word: $(cat "$work/out")"
echo "used after $SECONDS s"

inside apt-get purge -y -qq voronoi >"$work/apt" 2>&1 || { cat "$work/apt"; fail "the package does not go"; }
left=$(while read -r file; do
  case $file in *voronoi*) if [ -e "$root$file" ]; then echo "$file"; fi ;; esac
done <"$work/files"; find "$root/usr" "$root/etc" "$root/var/lib/dpkg/info" -name '*voronoi*' -printf '%P\n')
[ -z "$left" ] || fail "left behind: $left"
inside dpkg -s voronoi >/dev/null 2>&1 && fail "dpkg still knows it"
echo "voronoi.deb: installed, used and removed on a bare Debian 12 in $SECONDS s"
