#!/usr/bin/env bash
# bind_gpu.sh SCRIPT: which GPU a rank gets, with a false nvidia-smi; binding to a NUMA node needs a machine with GPUs.
set -euo pipefail
script=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
# gpu_of RANK VARIABLES...: the GPUs that the command sees.
# shellcheck disable=SC2016  # for the inner shell
gpu_of() { env -u CUDA_VISIBLE_DEVICES -u SLURM_LOCALID OMPI_COMM_WORLD_LOCAL_RANK="$1" "${@:2}" "$script" sh -c 'echo "${CUDA_VISIBLE_DEVICES-none}"'; }
if ! command -v nvidia-smi >/dev/null; then [ "$(gpu_of 1)" = none ] || fail "without a GPU"; fi
[ "$(gpu_of 0 CUDA_VISIBLE_DEVICES=)" = "" ] || fail "no GPU is allowed"

cat >"$work/nvidia-smi" <<'SMI'
#!/bin/sh
case "$*" in
  *index*) printf '0\n1\n' ;;
  *bus_id*) echo 00000000:FF:1F.7 ;;
esac
SMI
chmod +x "$work/nvidia-smi"
export PATH=$work:$PATH
[ "$(gpu_of 0) $(gpu_of 1) $(gpu_of 2)" = "0 1 0" ] || fail "ranks get $(gpu_of 0) $(gpu_of 1) $(gpu_of 2)"
[ "$(gpu_of 1 CUDA_VISIBLE_DEVICES=4,6)" = 6 ] || fail "the GPUs that Slurm allows are not kept to"
[ "$(env -u CUDA_VISIBLE_DEVICES -u OMPI_COMM_WORLD_LOCAL_RANK SLURM_LOCALID=1 "$script" printenv CUDA_VISIBLE_DEVICES)" = 1 ] || fail "srun's number is not used"
code=0
gpu_of 0 "$script" sh -c 'exit 75' || code=$?
[ $code = 75 ] || fail "exit code $code instead of 75"
