#!/usr/bin/env bash
# bind_gpu.sh COMMAND...: started once a rank (mpirun bind_gpu.sh voronoi ...). Gives the rank one GPU of its node, by its local number, and
# binds it to the cores and memory of that GPU's NUMA node. Where there is no GPU it only runs COMMAND.
set -u
local_rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}

# What Slurm or the user allows; else all that are there.
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(timeout 60 nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+$')
else
  gpus=()
fi
if [ ${#gpus[@]} -eq 0 ] || [ -z "${gpus[0]}" ]; then exec "$@"; fi
gpu=${gpus[$((local_rank % ${#gpus[@]}))]}
export CUDA_VISIBLE_DEVICES=$gpu

# 00000000:65:00.0 as nvidia-smi writes it is 0000:65:00.0 in /sys.
node=-1
if command -v nvidia-smi >/dev/null; then
  address=$(timeout 60 nvidia-smi --query-gpu=pci.bus_id --format=csv,noheader -i "$gpu" 2>/dev/null | tr '[:upper:]' '[:lower:]')
  file=/sys/bus/pci/devices/${address#0000}/numa_node
  if [ -n "$address" ] && [ -r "$file" ]; then node=$(<"$file"); fi
fi
# -1: the machine does not tell, or has one node. Never to cores that the rank was not given: in a part of the node its neighbours are other
# jobs'.
if [ "$node" -ge 0 ]; then
  listed() {  # 0-2,8: a number a line
    local range
    for range in ${1//,/ }; do seq "${range%-*}" "${range#*-}"; done | sort
  }
  mine=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
  cores=$(comm -12 <(listed "$(<"/sys/devices/system/node/node$node/cpulist")") <(listed "$mine") | paste -s -d,)
  if [ -n "$cores" ] && command -v numactl >/dev/null && numactl --physcpubind="$cores" --preferred="$node" true 2>/dev/null; then
    exec numactl --physcpubind="$cores" --preferred="$node" "$@"
  elif [ -n "$cores" ] && command -v taskset >/dev/null && taskset --cpu-list "$cores" true 2>/dev/null; then
    exec taskset --cpu-list "$cores" "$@"
  fi
fi
exec "$@"
