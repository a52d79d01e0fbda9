#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command: the tests marked gpu and the benchmark against
# PyTorch and JAX. Writes benchmarks/results/GPU-NAME/ with the environment, the log and the figures.
#   benchmarks/on_gpu.sh [PYTHON]      (gpumlp importable, with CuPy, pytest, hypothesis, scikit-learn)
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

"$python" - <<'END' || exit 5
import gpumlp
try:
    gpumlp.get_backend("cuda")
except gpumlp.GpumlpError as error:
    raise SystemExit(str(error))
END
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
out=benchmarks/results/$gpu
mkdir -p "$out"
{
    date -u +%FT%TZ
    git log -1 --format='commit %H' 2>/dev/null
    nvidia-smi
    "$python" -m pip list 2>/dev/null | grep -iE '^(numpy|cupy|torch|jax|jaxlib|nvidia|cuda)'
} > "$out/environment.txt"

failed=0
"$python" -m pytest -m gpu -p no:cacheprovider 2>&1 | tee "$out/tests.txt" || failed=1
for optimizer in sgd adam; do
    "$python" benchmarks/training.py --device cuda --optimizers "$optimizer" \
        --out "$out/training-$optimizer.json" 2>&1 | tee "$out/training-$optimizer.txt" || failed=1
done
exit $failed
