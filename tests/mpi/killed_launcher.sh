#!/usr/bin/env bash
# killed_launcher.sh PROGRAM: when mpirun alone is killed, its ranks end within 10 seconds, though they neither print nor call MPI. Open MPI does that;
# its documentation does not promise it.
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMPI_MCA_orte_tmpdir_base=$folder OMPI_MCA_btl_vader_backing_directory=$folder
mkdir "$folder/ranks"
mpirun --bind-to none -n 2 "$1" "$folder/ranks" &
launcher=$!
for _ in $(seq 300); do
  [ -s "$folder/ranks/0" ] && [ -s "$folder/ranks/1" ] && break
  sleep 0.1
done
ranks=("$(cat "$folder/ranks/0")" "$(cat "$folder/ranks/1")")
kill -9 $launcher
SECONDS=0
for rank in "${ranks[@]}"; do
  # A zombie has ended; who waits for it is another matter.
  while grep -q '^State:[^ZX]*$' "/proc/$rank/status" 2>/dev/null; do
    if [ $SECONDS -gt 10 ]; then
      kill -9 "${ranks[@]}"
      echo "FAILED: rank with process $rank goes on without its launcher"
      exit 1
    fi
    sleep 0.05
  done
done
echo "the ranks had ended after $SECONDS s"
