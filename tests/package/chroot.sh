# A bare Debian 12 for the tests of packages: made once a build folder by debootstrap, copied for each test; packages that apt fetches are
# kept beside it. Skips (77) where the machine cannot do this.
# shellcheck shell=bash disable=SC2154  # work, BUILD: common.sh
[ "$(id -u)" = 0 ] || skip "a chroot needs root"
command -v debootstrap >/dev/null || skip "debootstrap is not installed (apt-get install debootstrap)"
command -v dpkg-shlibdeps >/dev/null || skip "dpkg-shlibdeps is not installed (apt-get install dpkg-dev)"
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ "$suite" = bookworm ] || skip "the packages of this build are this system's ($suite), not Debian 12's"
# From where this machine takes its own packages.
# shellcheck disable=SC2016  # for apt-get
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
  awk -v suite="$suite" '$2 == suite && $3 == "main" && !found { print $1; found = 1 }')
[ -n "$mirror" ] || skip "apt has no list of Debian 12's packages (apt-get update)"
unshare --mount true 2>/dev/null || skip "this machine does not let us mount"

kept=$BUILD/package/chroot
root=$work/root
mkdir -p "$kept/archives/partial"
if [ ! -d "$kept/base" ]; then
  rm -rf "$kept/base.part"
  if ! debootstrap --variant=minbase "$suite" "$kept/base.part" "$mirror" >"$kept/debootstrap.log" 2>&1; then
    if ! timeout 30 "$kept/base.part/usr/lib/apt/apt-helper" download-file "${mirror%/}/dists/$suite/Release" "$work/release" >/dev/null 2>&1 &&
      ! timeout 30 /usr/lib/apt/apt-helper download-file "${mirror%/}/dists/$suite/Release" "$work/release" >/dev/null 2>&1; then
      skip "no network: $mirror does not answer"
    fi
    tail -n 20 "$kept/debootstrap.log"
    fail "debootstrap"
  fi
  rm -f "$kept/base.part"/var/cache/apt/archives/*.deb
  mv "$kept/base.part" "$kept/base"
fi
cp -a --reflink=auto "$kept/base" "$root"
# MPI asks for the host's name, which no name server may know.
echo "127.0.0.1 localhost $(hostname)" >"$root/etc/hosts"
# No daemon is started.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

# Runs a command in the chroot; mounts and processes end with it.
inside() {
  # shellcheck disable=SC2016  # for the inner shell
  unshare --mount --pid --fork --kill-child --mount-proc="$root/proc" bash -c '
    root=$1 archives=$2
    shift 2
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount --bind "$archives" "$root/var/cache/apt/archives"
    exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
      OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_pml=ob1 \
      OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1 "$@"' inside "$root" "$kept/archives" "$@"
}

# Makes the .deb of this build in the folder $1.
make_deb() {
  cpack -G DEB --config "$BUILD/CPackConfig.cmake" -B "$1" >"$work/cpack.log" 2>&1 || { cat "$work/cpack.log"; fail "cpack"; }
}
