#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command: what the machine has and allows, a training run,
# parity, resuming, the tests marked gpu, compute-sanitizer, and the benchmarks. Writes
# benchmarks/results/GPU-NAME/: environment, figures, and logs.txt with all that was printed.
#   benchmarks/on_gpu.sh [--only NAME,NAME...] [PYTHON]   (gpumlp importable, with CuPy, and the extras
#                                                          test and bench; the names stand below)
# Each step runs whatever became of the one before, for at most 9 minutes; the last lines and
# summary.txt say how each ended, and the exit code is 0 only if all of them did well (5: no usable
# GPU, nothing was run; 124 in the summary: out of time).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 6
only=
if [ "${1:-}" = --only ]; then
    only=,$2,
    shift 2
fi
python=${1:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

gpu=$("$python" - <<'END'
import re
import gpumlp
from gpumlp.environment import describe
try:
    name = describe(gpumlp.get_backend("cuda"))["gpu"]
except gpumlp.GpumlpError as error:
    raise SystemExit(str(error))
print(re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"))
END
) || exit 5
out=benchmarks/results/$gpu
mkdir -p "$out" || exit 6
scratch=$(mktemp -d) || exit 6
trap 'rm -rf "$scratch"' EXIT

failed=0
: > "$out/summary.txt" || exit 6
: > "$out/logs.txt" || exit 6
step() { # NAME COMMAND...: run it if it is wanted, keep what it prints in logs.txt
    local name=$1 code=0 began=$SECONDS
    shift
    case "${only:-,$name,}" in *,"$name",*) ;; *) return ;; esac
    echo "== $name: $*" | tee -a "$out/logs.txt"
    timeout 540 "$@" 2>&1 | tee -a "$out/logs.txt" || code=$?
    ((code == 0)) || failed=1
    echo "$name: exit $code after $((SECONDS - began)) s" | tee -a "$out/logs.txt" >> "$out/summary.txt"
}
# what runs in a shell of its own, so that it can be stopped
versions='date -u +%FT%TZ
git log -1 --format="commit %H" 2> /dev/null || echo "not a git checkout"
nvidia-smi || exit
"$0" -m pip list 2> /dev/null | grep -iE "^(numpy|cupy|torch|jax|jaxlib|nvidia|cuda)"'
# which libraries of CUDA a training run has loaded: what an installation must have
libraries='
import re, sys
from pathlib import Path
from gpumlp import cli
code = cli.main(["train", "--config", "digits", "--device", "cuda", "--run-dir", sys.argv[1], "-q"])
maps = Path("/proc/self/maps").read_text()
print(*sorted({*re.findall(r"/(lib(?:cu|nv)[^/ ]*\.so[.\d]*)$", maps, re.M)}), sep="\n")
sys.exit(code)'

step environment bash -c "$versions" "$python"
step doctor "$python" -m gpumlp.cli doctor --device cuda
step facts "$python" benchmarks/gpu_facts.py --out "$out/facts.json"
step smoke "$python" -m gpumlp.train --config digits --device cuda --run-dir "$scratch/digits"
step libraries "$python" -c "$libraries" "$scratch/libraries"
for config in digits breast_cancer diabetes xor deep wide deep_sigmoid full_batch; do
    step "parity-$config" "$python" -m gpumlp.cli parity --config "$config" --device cuda
done
for precision in fp32 fp16; do
    step "resume-$precision" "$python" -m gpumlp.cli verify-resume --config digits --device cuda \
        --set precision=$precision --kills 8 --signal mixed
done
step tests "$python" -m pytest -m gpu -p no:cacheprovider
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" -m pytest -m gpu -k sanitizer -p no:cacheprovider tests/test_cuda.py
    done
fi
for optimizer in sgd adam; do
    step "training-$optimizer" "$python" benchmarks/training.py --device cuda \
        --optimizers "$optimizer" \
        --out "$out/training-$optimizer.json" --plot "$out/training-$optimizer.png"
done
large=784-1024-1024-1024-10@256,4096-4096-4096-10@8192
for precision in tf32 bf16 bf16x3 bf16x6; do
    nets=$large
    [ "$precision" = bf16 ] && nets=$large,64-64-64-64-16@65536
    step "training-$precision" "$python" benchmarks/training.py --device cuda --what step \
        --precision "$precision" --nets "$nets" --out "$out/training-$precision.json"
done
# a scaled loss is not for a graph of PyTorch's whole step
step training-fp16 "$python" benchmarks/training.py --device cuda --what step --precision fp16 \
    --nets "$large" --peers torch,torch-compile --out "$out/training-fp16.json"
step training-bf16-adam "$python" benchmarks/training.py --device cuda --what step \
    --precision bf16 --optimizers adam --nets "$large" --out "$out/training-bf16-adam.json"
step precisions "$python" benchmarks/precisions.py --device cuda --seeds 1 \
    --out "$out/precisions.json" --plot "$out/precisions.png"
for precision in fp32 bf16; do
    step "profile-$precision" "$python" -m gpumlp.cli train --config full_batch --device cuda \
        --set precision=$precision --profile --run-dir "$scratch/profile-$precision"
done
for precision in tf32 bf16 fp16 bf16x3 bf16x6; do
    step "parity-$precision" "$python" -m gpumlp.cli parity --config digits --device cuda \
        --set precision=$precision
done
step variants "$python" benchmarks/training.py --device cuda --what step \
    --peers gpumlp-unforked,gpumlp-eager,gpumlp-trainer \
    --nets 784-30-10@10,784-128-10@64,784-500-500-10@100 --out "$out/variants.json"
step variants-adam "$python" benchmarks/training.py --device cuda --what step --optimizers adam \
    --peers gpumlp-late,gpumlp-unforked --nets "$large" --out "$out/variants-adam.json"
step kernels "$python" benchmarks/kernels.py --device cuda \
    --out "$out/kernels.json" --plot "$out/kernels.png"
# 40 of the 60 standard combinations in 3 rounds of five contenders each, about 10 s apiece: all 60 in
# 5 rounds would not end within 9 minutes. Nothing is begun after 7.5; what is left out then is said.
step cpu_vs_gpu "$python" benchmarks/cpu_vs_gpu.py --device cuda \
    --out "$out/cpu_vs_gpu.json" --plot "$out/cpu_vs_gpu.png" --roofline "$out/roofline.png" \
    --depths 1,4 --rounds 3 --most 1e12 --minutes 7.5
echo "== $out/summary.txt"
cat "$out/summary.txt"
exit $failed
