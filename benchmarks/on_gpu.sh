#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command: what the machine has, a training run, the tests
# marked gpu, and the benchmarks. Writes benchmarks/results/GPU-NAME/: environment, logs, figures.
#   benchmarks/on_gpu.sh [PYTHON]      (gpumlp importable, with CuPy and the extras test and bench)
# Each step runs whatever became of the one before; the last lines and summary.txt say how each ended,
# and the exit code is 0 only if all of them did well (5: no usable GPU, nothing was run).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 6
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
step() { # NAME COMMAND...: run it, keep what it prints in NAME.txt
    local name=$1 code=0 began=$SECONDS
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$out/$name.txt" || code=$?
    ((code == 0)) || failed=1
    echo "$name: exit $code after $((SECONDS - began)) s" | tee -a "$out/summary.txt"
}
versions() {
    date -u +%FT%TZ
    git log -1 --format='commit %H' 2>/dev/null || echo "not a git checkout"
    nvidia-smi || return
    "$python" -m pip list 2>/dev/null | grep -iE '^(numpy|cupy|torch|jax|jaxlib|nvidia|cuda)'
}

step environment versions
step doctor "$python" -m gpumlp.cli doctor --device cuda
step smoke "$python" -m gpumlp.train --config digits --device cuda --run-dir "$scratch/digits"
step tests "$python" -m pytest -m gpu -p no:cacheprovider
for optimizer in sgd adam; do
    step "training-$optimizer" "$python" benchmarks/training.py --device cuda \
        --optimizers "$optimizer" \
        --out "$out/training-$optimizer.json" --plot "$out/training-$optimizer.png"
done
step kernels "$python" benchmarks/kernels.py --device cuda \
    --out "$out/kernels.json" --plot "$out/kernels.png"
step cpu_vs_gpu "$python" benchmarks/cpu_vs_gpu.py --device cuda \
    --out "$out/cpu_vs_gpu.json" --plot "$out/cpu_vs_gpu.png"
echo "== $out/summary.txt"
cat "$out/summary.txt"
exit $failed
