"""Mutants that no test can tell from the right text, each with the reason why.

`RULES` leave out a whole function; `EQUIVALENT` are single changes: file, function, line, and the
change as `mutation_testing.py` prints it, with a number where the same change occurs again there.
"""

RULES = {
    ("gpumlp/backend/base.py", "Backend.seconds"): "measures time",
}

OF_PYTHON = {
    "gpumlp/backend/activations.py": {
        (
            "_softplus",
            "xp.logaddexp(z, 0, out=a)",
            "xp.logaddexp(z, 0, out=a) -> (xp.logaddexp(0, z, out=a))",
        ): "a sum either way",
    },
    "gpumlp/backend/base.py": {
        (
            "Backend._blend",
            "if not _is(alpha, 1):",
            "_is(alpha, 1) -> (_is(1, alpha))",
        ): "1 == alpha, too",
        (
            "Backend._blend",
            "if not _is(beta, 1):",
            "_is(beta, 1) -> (_is(1, beta))",
        ): "1 == beta, too",
        (
            "Backend.operand",
            'operand = self.operand_memory(x.shape, "C" if x.flags.c_contiguous else "F")',
            '"C" if x.flags.c_contiguous else "F" -> \'C\'',
        ): "the order of memory changes the speed alone",
        (
            "Backend.operand",
            'operand = self.operand_memory(x.shape, "C" if x.flags.c_contiguous else "F")',
            '"C" if x.flags.c_contiguous else "F" -> \'F\'',
        ): "the order of memory changes the speed alone",
        (
            "Backend.matmul",
            "if _is(alpha, 1) and _is(beta, 0):",
            "_is(alpha, 1) -> (_is(1, alpha))",
        ): "1 == alpha, too",
        (
            "Backend.bias_activation_backward",
            "if _is(alpha, 1) and _is(beta, 0):",
            "_is(beta, 0) -> (_is(0, beta))",
        ): "0 == beta, too",
        (
            "Backend.matmul",
            "if _is(alpha, 1) and _is(beta, 0):",
            "_is(beta, 0) -> (_is(0, beta))",
        ): "0 == beta, too",
        (
            "Backend.bias_activation_backward",
            "if _is(alpha, 1) and _is(beta, 0):",
            "_is(alpha, 1) -> (_is(1, alpha))",
        ): "1 == alpha, too",
        (
            "Backend.bias_activation_backward",
            "xp.matmul(ones, dz, out=bias_sink)",
            "xp.matmul(ones, dz, out=bias_sink) -> (xp.matmul(ones.T, dz, out=bias_sink))",
        ): "a vector is its own transpose",
        (
            "Backend.bias_activation_backward",
            "xp.matmul(ones, dz, out=sums)",
            "xp.matmul(ones, dz, out=sums) -> (xp.matmul(ones.T, dz, out=sums))",
        ): "a vector is its own transpose",
        (
            "Backend.dropout",
            "xp.greater_equal(h, min(round(rate * 2**32), 2**32 - 1), out=out)",
            "2 -> 3 (2)",
        ): "of the bound: 1 entry in 2³² has such bits, at rates near 1 alone",
        (
            "Backend.pointwise_loss",
            "if outputs > 1:",
            "1 -> 0",
        ): "divides by the number of outputs where that is 1",
        (
            "Backend.pointwise_loss",
            "if outputs > 1:",
            "outputs > 1 -> (outputs >= 1)",
        ): "divides by 1 where it is 1",
    },
    "gpumlp/backend/fused.py": {
        (
            "FusedBackend._bind_dropout",
            "threshold=min(round(rate * 2**32), 2**32 - 1),",
            "1 -> 2",
        ): "1 entry in 2³² has such bits, at rates near 1 alone",
    },
    "gpumlp/backend/pointwise.py": {
        (
            "_bce",
            "xp.greater(z, 0, out=out)",
            "xp.greater(z, 0, out=out) -> (xp.greater_equal(z, 0, out=out))",
        ): "times z, which is 0",
    },
    "gpumlp/callbacks.py": {
        (
            "BestEpoch.load_state",
            'self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])',
            "int(state[\"best_epoch\"]) -> (state['best_epoch'])",
        ): "a state holds a whole number",
    },
    "gpumlp/data/weights.py": {
        (
            "class_weights",
            "labels = y.reshape(-1).astype(np.int64)",
            "1 -> 2",
        ): "NumPy takes any negative number",
    },
    "gpumlp/engine/divergence.py": {
        (
            "EpochStart.keep",
            "self._progress = self._training.progress if self._training.batches.position else None",
            "self._training.progress if self._training.batches.position else None -> "
            "(self._training.progress)",
        ): "before the first step the sums are 0",
    },
    "gpumlp/engine/step.py": {
        (
            "TrainingStep.__init__",
            "if batches.whole and (batches.x.dtype == np.uint8 or isinstance(batches.x, "
            "SparseRows)):",
            "batches.x.dtype == np.uint8 or isinstance(batches.x, SparseRows) -> "
            "(batches.x.dtype == np.uint8)",
        ): "what is not made dense here is in each step, which takes its time",
    },
    "gpumlp/gradients/check.py": {
        (
            "choose_batch",
            "of_row = of_class[train.y.reshape(-1).astype(np.int64)]",
            "1 -> 2",
        ): "NumPy takes any negative number",
        (
            "_entries",
            "if rng is not None and parameter.size > SAMPLED:",
            "parameter.size > SAMPLED -> (parameter.size >= SAMPLED)",
        ): "all entries, drawn and sorted, are all entries",
        (
            "failures",
            "if worst is not None and not worst.error <= TOLERANCE:",
            "worst.error <= TOLERANCE -> (worst.error < TOLERANCE)",
        ): "no error is exactly the tolerance",
        (
            "_along_a_direction",
            "return relative_error(float(gradient @ direction), numeric, scale)",
            "gradient @ direction -> (direction @ gradient)",
        ): "a sum of products either way",
        (
            "added_sizes",
            "model.backward(dz[row : row + 1], input_gradient=False)",
            "False -> True",
        ): "nobody reads the gradient by the input",
    },
    "gpumlp/gradients/differences.py": {
        (
            "relative_error",
            "return abs(analytic - numeric) / size if size else 0.0",
            "analytic - numeric -> (numeric - analytic)",
        ): "only its size is looked at",
        (
            "module",
            "NOISE = 4 * float(np.finfo(np.float64).eps)",
            "4 -> 3",
        ): "how much rounding is allowed for is a matter of size",
        (
            "module",
            "NOISE = 4 * float(np.finfo(np.float64).eps)",
            "4 -> 5",
        ): "how much rounding is allowed for is a matter of size",
    },
    "gpumlp/gradients/explain.py": {
        (
            "explain",
            "model.backward(loss.backward(), backend=watching, input_gradient=False)",
            "False -> True",
        ): "nobody reads the gradient by the input",
        (
            "_Watching.bias_activation_backward",
            "alpha: Scalar = 1.0,",
            "1.0 -> 2.0",
        ): "a layer says by what it multiplies",
    },
    "gpumlp/gradients/kinks.py": {
        (
            "near_kinks",
            "near |= _near(x - target, max(abs(x).max(), abs(target).max()))",
            "x - target -> (target - x)",
        ): "only its size is looked at",
        (
            "_near",
            "return np.asarray(((d != 0) & (abs(d) < NEAR * largest)).any(axis=1))",
            "abs(d) < NEAR * largest -> (abs(d) <= NEAR * largest)",
        ): "what is near is a matter of size, no row lies exactly there",
    },
    "gpumlp/gradients/norms.py": {
        (
            "GradientNorms.on_train_begin",
            "self._workspace = Workspace(trainer.model.backend)",
            "self._workspace = Workspace(trainer.model.backend) -> pass",
        ): "each epoch then takes memory anew",
        (
            "GradientNorms._gradients",
            "da = layer.backward(da, into=into, input_gradient=i > 0, backend=backend)",
            "i > 0 -> (i >= 0)",
        ): "nobody reads the gradient by the input",
    },
    "gpumlp/gradients/sizes.py": {
        (
            "SizingBackend.clip_norm",
            "factor = float(np.linalg.norm(g)) / (before or 1.0)",
            "1.0 -> 2.0",
        ): "a norm that was 0 still is",
        (
            "_address",
            'return int(array.__array_interface__["data"][0])',
            "int(array.__array_interface__[\"data\"][0]) -> (array.__array_interface__['data'][0])",
        ): "it is a whole number, which NumPy does not say to mypy",
    },
    "gpumlp/initializers.py": {
        (
            "orthogonal",
            "Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)",
            "np.diagonal(R) < 0 -> (np.diagonal(R) <= 0)",
        ): "R of numbers drawn at random has no 0 there",
    },
    "gpumlp/layers.py": {
        (
            "Dense._backward",
            "sink, alpha, beta = into(self.bias) if self.bias is not None else (None, 1.0, 0.0)",
            "1.0 -> 2.0",
        ): "without a bias nothing is multiplied",
        (
            "Dropout.masked",
            "if key is None or not self.rate:",
            "key is None or not self.rate -> (key is None)",
        ): "at rate 0 every entry is kept",
    },
    "gpumlp/losses.py": {
        (
            "SoftmaxCrossEntropy.check_target",
            "if rows and not bool((abs(target.sum(axis=1) - 1) <= 1e-3).all()):",
            "abs(target.sum(axis=1) - 1) <= 1e-3 -> (abs(target.sum(axis=1) - 1) < 0.001)",
        ): "no sum of numbers in binary is off by exactly 1e-3",
        (
            "PointwiseLoss",
            "parameter = 0.0",
            "0.0 -> 1.0",
        ): "only a loss with a parameter of its own reads it",
    },
    "gpumlp/lr_finder.py": {
        (
            "_judged",
            "if rose or smoothed[-1 - window] - smoothed[-1] <= clear:  # or it has come to rest",
            "smoothed[-1 - window] - smoothed[-1] <= clear -> (smoothed[-1 - window] - "
            "smoothed[-1] < clear)",
        ): "no curve falls by exactly so much",
    },
    "gpumlp/metrics.py": {
        (
            "mae",
            "return _mean(np.mean(np.abs(t - y), axis=1), weight)",
            "t - y -> (y - t)",
        ): "only its size is looked at",
        (
            "r2",
            "spread = weight @ (from_first - weight @ from_first / weight.sum()) ** 2",
            "weight @ (from_first - weight @ from_first / weight.sum()) ** 2 -> "
            "(weight.T @ (from_first - weight @ from_first / weight.sum()) ** 2)",
        ): "a vector is its own transpose",
        (
            "r2",
            "error = weight @ (t - y) ** 2",
            "t - y -> (y - t)",
        ): "squared",
        (
            "Metric",
            "least_outputs: int = 1",
            "1 -> 0",
        ): "no network has no outputs",
        (
            "r2",
            "explained = 1 - error / np.where(constant, 1, spread)",
            "1 -> 2 (2)",
        ): "not read where the targets are constant",
    },
    "gpumlp/model.py": {
        (
            "Sequential.features",
            "rows = self.backend.asarray(rows) if scale == 1 else self._scaled(rows, scale)",
            "1 -> 0",
        ): "a scale is never 0, and 1 multiplies by 1",
        (
            "Sequential.features",
            "rows = self.backend.asarray(rows) if scale == 1 else self._scaled(rows, scale)",
            "self.backend.asarray(rows) if scale == 1 else self._scaled(rows, scale) -> "
            "(self._scaled(rows, scale))",
        ): "1 multiplies by 1",
    },
    "gpumlp/optimizers.py": {
        (
            "Optimizer._copy",
            "if operand is None or len(operand.parts) > 1 or self._limited:",
            "len(operand.parts) > 1 -> (len(operand.parts) >= 1)",
        ): "the copy is then rounded by a call of its own",
        (
            "Optimizer.update",
            "if not written_through and self.clip_norm is not None:",
            "not written_through and self.clip_norm is not None -> (self.clip_norm is not None)",
        ): "an optimizer that clips does not write through",
    },
    "gpumlp/parity.py": {
        (
            "_replace_rows_near_kinks",
            "start = position * batches.effective",
            "position * batches.effective -> (position / batches.effective)",
        ): "rows beyond the last are row 0 again, which may be replaced again",
        (
            "_replace_rows_near_kinks",
            "for _ in range(10):  # under its mask a row that replaces another may be near a kink, "
            "too",
            "10 -> 11",
        ): "how often it is tried",
        (
            "_replace_rows_near_kinks",
            "taken = min(batches.effective, batches.count - start)",
            "batches.count - start -> (batches.count + start)",
        ): "rows beyond the last are row 0 again, which may be replaced again",
        (
            "module",
            "ROUNDING = 2  # times the type's ε: what writing a value may lose",
            "2 -> 3",
        ): "how much rounding is allowed for is a matter of size",
    },
    "gpumlp/randomness.py": {
        (
            "permutation",
            'return generator("shuffle", seed, epoch).permutation(n).astype(np.int64, copy=False)',
            "False -> True",
        ): "a copy of the same numbers",
    },
    "gpumlp/samples.py": {
        (
            "module",
            "BLOCK_ROWS = 4096",
            "4096 -> 4097",
        ): "how many rows are looked at at once",
    },
    "gpumlp/schedules.py": {
        (
            "OneCycle.factors",
            "return np.where(phase < 1, rise, fall)",
            "phase < 1 -> (phase <= 1)",
        ): "both halves are 1 at the peak",
    },
    "gpumlp/sklearn/lbfgs.py": {
        (
            "fit_lbfgs",
            "estimator.n_iter_ = min(int(found.nit), int(estimator.max_iter))",
            "int(estimator.max_iter) -> (estimator.max_iter)",
        ): "SciPy stops there, and of equals `min` takes the first",
    },
    "gpumlp/trainer.py": {
        (
            "module",
            "PROGRESS_SECONDS = 0.1",
            "0.1 -> 0.2",
        ): "how often progress is shown",
    },
}
OF_KERNELS = {
    "kernels/activation.cu": {
        (
            "take_sums",
            "for (uint32 y = 0; y < blockDim.y; ++y) sum += strip[y * width + i];",
            "for (uint32 y = 0; y < blockDim.y; ++y) sum += strip[y * width + i]; -> for "
            "(uint32 y = 0; y < blockDim.y; ++y) sum -= strip[y * width + i];",
        ): "each sum is made of sums that passed here before: both signs change",
    },
    "kernels/device.h": {
        (
            "for_each",
            "constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 2;  // more would cost registers",
            "constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 2; // more would cost registers "
            "-> constexpr int COUNT = sizeof...(Array) <= 3 ? 4 : 2;  // more would cost "
            "registers",
        ): "the order of visits changes the speed alone",
        (
            "for_each",
            "constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 2;  // more would cost registers",
            "constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 2; // more would cost registers "
            "-> constexpr int COUNT = sizeof...(Array) <= 2 ? 4 : 3;  // more would cost "
            "registers",
        ): "the order of visits changes the speed alone",
    },
    "kernels/loss.cu": {
        (
            "softmax_cross_entropy",
            "return term < 0.0f ? term : 0.0f;  // 0 times -inf costs nothing",
            "return term < 0.0f ? term : 0.0f; // 0 times -inf costs nothing -> return term <= "
            "0.0f ? term : 0.0f;  // 0 times -inf costs nothing",
        ): "0 either way",
    },
    "kernels/native.cpp": {
        (
            "gpumlp_run",
            "for (size_t i = 0; i < count; ++i) "
            "parts = calls[i].parts > parts ? calls[i].parts : parts;",
            "for (size_t i = 0; i < count; ++i) "
            "parts = calls[i].parts > parts ? calls[i].parts : parts; -> "
            "for (size_t i = 0; i >= count; ++i) "
            "parts = calls[i].parts > parts ? calls[i].parts : parts;",
        ): "how many threads there are changes the speed alone",
        (
            "clipping",
            "SCALAR float clipping(double norm, float limit) "
            "{ return (float)(limit / (norm < limit ? limit : norm)); }",
            "SCALAR float clipping(double norm, float limit) "
            "{ return (float)(limit / (norm < limit ? limit : norm)); } -> "
            "SCALAR float clipping(double norm, float limit) "
            "{ return (float)(limit / (norm <= limit ? limit : norm)); }",
        ): "of equals it does not matter which",
        (
            "row_maxima",
            "for (size_t column = 1; column < columns; ++column) {",
            "for (size_t column = 1; column < columns; ++column) { -> for (size_t column = 0; "
            "column < columns; ++column) {",
        ): "nothing is larger than itself",
        (
            "smaller",
            "SCALAR size_t smaller(size_t a, size_t b) { return a < b ? a : b; }",
            "SCALAR size_t smaller(size_t a, size_t b) { return a < b ? a : b; } -> SCALAR "
            "size_t smaller(size_t a, size_t b) { return a <= b ? a : b; }",
        ): "of equals, either",
        (
            "unscale",
            "const Range mine = share(n, 16);",
            "const Range mine = share(n, 16); -> const Range mine = share(n, 15);",
        ): "where the threads' parts meet changes the speed alone",
        (
            "columns_at_once",
            "SCALAR size_t columns_at_once(size_t rows) { return rows < 4096 ? 4096 / (rows + "
            "1) + 1 : 1; }",
            "SCALAR size_t columns_at_once(size_t rows) { return rows < 4096 ? 4096 / (rows + "
            "1) + 1 : 1; } -> SCALAR size_t columns_at_once(size_t rows) { return rows < 4096 "
            "? 4095 / (rows + 1) + 1 : 1; }",
        ): "how many columns at once changes the speed alone",
        (
            "softmax_cross_entropy",
            "dot += term < 0.0f ? term : 0.0f;",
            "dot += term < 0.0f ? term : 0.0f; -> dot += term < 1.0f ? term : 0.0f;",
        ): "no term is above 0",
    },
    "kernels/portable.h": {
        (
            "value",
            "return ((z > 0.0f ? 1.0f : 0.0f) - smoothed(t, p)) * z + tail;",
            "return ((z > 0.0f ? 1.0f : 0.0f) - smoothed(t, p)) * z + tail; -> "
            "return ((z >= 0.0f ? 1.0f : 0.0f) - smoothed(t, p)) * z + tail;",
        ): "times z, which is 0",
        (
            "value",
            "const float below = expm1_(z > 0.0f ? 0.0f : z);",
            "const float below = expm1_(z > 0.0f ? 0.0f : z); -> "
            "const float below = expm1_(z > 0.0f ? 1.0f : z);",
        ): "above 0 nobody reads it",
        (
            "value",
            "const float tail = log1p_(exp_(z < 0.0f ? z : -z));",
            "const float tail = log1p_(exp_(z < 0.0f ? z : -z)); -> const float tail = "
            "log1p_(exp_(z <= 0.0f ? z : -z)); (2)",
        ): "e^0 either way",
        (
            "value",
            "const float tail = log1p_(exp_(z < 0.0f ? z : -z));",
            "const float tail = log1p_(exp_(z < 0.0f ? z : -z)); -> const float tail = "
            "log1p_(exp_(z <= 0.0f ? z : -z));",
        ): "e^0 either way",
        (
            "bits",
            "const uint32 quiet = value == value ? 0u : 0x400000u;",
            "const uint32 quiet = value == value ? 0u : 0x400000u; -> const uint32 quiet = "
            "value == value ? 1u : 0x400000u;",
        ): "the last bits are cut off",
    },
}

EQUIVALENT = {
    (file, *change): reason
    for file, changes in (OF_PYTHON | OF_KERNELS).items()
    for change, reason in changes.items()
}
