#!/usr/bin/env bash
# All that only a graphics card can show, in one call of less than ten minutes: the tests on CUDA,
# and speed and memory of docs/performance.md at 512 pixels and a batch of 4 + 4.
#
#   benchmarks/gpu.sh [FOLDER]     the figures go to FOLDER, docs/performance where none is given
#
# Needs 5 GB of disk, a Python (PYTHON, or the one on the path) with torch for CUDA and what
# ComfyUI's `comfy` package imports, and a ComfyUI in .host or at COMFYUI_PATH: no web parts. With
# diffusers installed the training step is compared with its example. Then run
# `python -m benchmarks.performance`, which writes the page.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
folder="$(mkdir -p "${1:-docs/performance}" && cd "${1:-docs/performance}" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=()

stage() { # NAME LIMIT_SECONDS COMMAND...: one that fails does not keep the others from running
    local name="$1" limit="$2" start=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$folder/$name.log" 2>&1 || failed+=("$name")
    echo "$name: $((SECONDS - start)) s; $(tail -n 1 "$folder/$name.log" | cut -c 1-150)"
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"' || exit 1
real=(--checkpoint "$work/random_sd15.safetensors" --pixels 512)
stage tests_cuda 90 "$python" -m pytest -q -p no:cacheprovider tests/cuda
stage checkpoint_cuda 60 "$python" -m devtools.checkpoints "$work" sd15
stage train_step_cuda 130 "$python" -m benchmarks.train_step "${real[@]}" \
    --photos 4 --rounds 10 --out "$folder/train_step_cuda.json"
stage profile_cuda 40 "$python" -m benchmarks.profile "${real[@]}" \
    --photos 4 --out "$folder/profile_cuda.json"
stage inference_cuda 50 "$python" -m benchmarks.inference "${real[@]}" \
    --steps 30 --rounds 5 --out "$folder/inference_cuda.json"
stage growth_cuda 40 "$python" -m benchmarks.growth --out "$folder/growth_cuda.json"
stage stages_cuda 180 "$python" -m benchmarks.stages "${real[@]}" \
    --batch 4 --steps 600 --priors 4 --out "$folder/stages_cuda.json"
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}; their messages are in $folder"
    exit 1
fi
