#!/usr/bin/env bash
# Where no GPU is: the module opens, finds no device, and the program says so; auto computes on the CPU.
# shellcheck source=../e2e/common.sh
. "$(dirname "$0")/../e2e/common.sh"
if ls /dev/nvidia[0-9]* >/dev/null 2>&1; then skip machine "there is a GPU"; fi
unset VORONOI_CUDA_MODULE
evaluate=("$VORONOI" eval --model "$work/model" --text "$evaluation_text" --context 16 --windows 1)
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }

reason="there is no GPU"
expect 74 "${evaluate[@]}" --device cuda
says "$reason"
says "use --device cpu"
expect 0 "${evaluate[@]}" --device auto
says "computing on the CPU"
says "$reason"
expect 0 "${evaluate[@]}" --device cpu

# A module that is not there, and one that is none.
VORONOI_CUDA_MODULE=$work/nowhere.so expect 74 "${evaluate[@]}" --device cuda
says "cannot be loaded"
says "nowhere.so"
echo "no library" >"$work/broken.so"
VORONOI_CUDA_MODULE=$work/broken.so expect 74 "${evaluate[@]}" --device cuda
says "broken.so"
