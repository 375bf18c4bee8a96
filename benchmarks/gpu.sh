#!/usr/bin/env bash
# All that only a graphics card can show, in one call: the tests on CUDA, and speed and memory for
# docs/performance.md at 512 pixels and a batch of 4 + 4. Less than ten minutes on an H100 or H200;
# a stage that is too slow for its limit is stopped, and the others go on.
#
#   benchmarks/gpu.sh [FOLDER [STAGE...]]
#
# FOLDER: where the figures go, docs/performance by default. STAGE: tests, contenders, step,
# choices, sampling, growth, stages; all by default. Or sdxl, a run of SDXL at 1024 pixels, which
# starts by its name alone. Needs 5 GB of disk, 12 with sdxl; a ComfyUI in .host or at COMFYUI_PATH,
# whose server and page are not used; and a Python (PYTHON, or python3) with pytest 9, torch for CUDA
# and what ComfyUI's `comfy` package imports: comfy-kitchen (its small wheel for any platform will
# do), comfy-aimdo, torchsde and trampoline among others. diffusers, and Train LoRA, which wants av,
# are compared with where they are installed. Each figure is written as soon as it is there; what was
# said on the way is in FOLDER/gpu.log. Then `python -m benchmarks.speed report` writes the page from
# docs/performance.
set -uo pipefail
folder="${1:-$(dirname "$0")/../docs/performance}"
mkdir -p "$folder" && folder="$(cd "$folder" && pwd)" || exit 1
cd "$(dirname "$0")/.." || exit 1
python="${PYTHON:-python3}"
wanted=" ${*:2} "
work="$(mktemp -d)" || exit 1
trap 'rm -rf "$work"' EXIT
failed=()

is_wanted() { # NAME...: one of them, or all stages
    local name
    [[ $wanted =~ ^\ *$ ]] && return
    for name; do [[ $wanted == *" $name "* ]] && return; done
    return 1
}

stage() { # NAME LIMIT_SECONDS COMMAND...
    local name="$1" limit="$2" start=$SECONDS left=$((580 - SECONDS))
    shift 2
    is_wanted "$name" || return 0
    ((limit < left)) || limit=$((left > 1 ? left : 1)) # ten minutes in all
    if ! timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1; then
        failed+=("$name")
        tail -n 20 "$work/$name.log"
    elif [[ $name == tests ]]; then
        tail -n 1 "$work/$name.log" # how many passed
    fi
    { echo "== $name" && cat "$work/$name.log"; } >>"$folder/gpu.log"
    echo "$name: $((SECONDS - start)) s"
}

"$python" -c 'import pytest, torch, comfy_aimdo, comfy_kitchen, torchsde, trampoline
assert pytest.version_tuple >= (9,), "pytest 9 is needed"
assert torch.cuda.is_available(), "no CUDA"' || exit 1
if is_wanted contenders stages sampling step choices; then
    "$python" -m devtools.checkpoints "$work" sd15 >/dev/null || exit 1
fi
real=(--checkpoint "$work/random_sd15.safetensors" --pixels 512)

speed() { # COMMAND LIMIT_SECONDS OPTION...
    stage "$1" "$2" "$python" -m benchmarks.speed "$1" "${@:3}" --out "$folder/$1_cuda.json"
}

stage tests 80 "$python" -m pytest -q -p no:cacheprovider tests/cuda
speed contenders 170 "${real[@]}" --photos 4 --rounds 4
speed stages 150 "${real[@]}" --photos 4 --steps 600 --priors 4
speed sampling 70 "${real[@]}" --steps 20 --rounds 6
speed step 40 "${real[@]}" --photos 4
speed growth 40
speed choices 90 "${real[@]}" --photos 4 --rounds 3
if [[ $wanted == *" sdxl "* ]]; then
    "$python" -m devtools.checkpoints "$work" sdxl >/dev/null || exit 1
    stage sdxl 240 "$python" -m benchmarks.speed stages --pixels 1024 --steps 20 \
        --checkpoint "$work/random_sdxl.safetensors" --out "$folder/stages_sdxl_cuda.json"
fi
if ((${#failed[@]})); then
    echo "failed or too slow: ${failed[*]}. Run one again: benchmarks/gpu.sh $folder ${failed[0]}"
    exit 1
fi
