"""Mutants that no test can tell from the right text, each with the reason why.

`RULES` leave out a whole function; `EQUIVALENT` are single changes: file, function, line, and the
change as `mutation_testing.py` prints it, with a number where the same change occurs again there.
"""

RULES = {
    ("gpumlp/backend/base.py", "Backend.seconds"): "measures time",
}

OF_PYTHON = {
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
    "gpumlp/data/weights.py": {
        (
            "class_weights",
            "labels = y.reshape(-1).astype(np.int64)",
            "1 -> 2",
        ): "NumPy takes any negative number",
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
    },
    "gpumlp/gradients/differences.py": {
        (
            "relative_error",
            "return abs(analytic - numeric) / size if size else 0.0",
            "analytic - numeric -> (numeric - analytic)",
        ): "only its size is looked at",
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
    },
    "gpumlp/metrics.py": {
        (
            "mae",
            "return _mean(np.mean(np.abs(t - y), axis=1), weight)",
            "t - y -> (y - t)",
        ): "only its size is looked at",
        (
            "macro_f1",
            "_require_equal_shapes(target, predicted)",
            "_require_equal_shapes(target, predicted) -> "
            "(_require_equal_shapes(predicted, target))",
        ): "equal is equal",
        (
            "mean_squared_error",
            "t, y, weight = _outputs(target, prediction, sample_weight)",
            "_outputs(target, prediction, sample_weight) -> "
            "(_outputs(prediction, target, sample_weight))",
        ): "only (t - y)² and |t - y| are looked at",
        (
            "rmse",
            "t, y, weight = _outputs(target, prediction, sample_weight)",
            "_outputs(target, prediction, sample_weight) -> "
            "(_outputs(prediction, target, sample_weight))",
        ): "only (t - y)² and |t - y| are looked at",
        (
            "mae",
            "t, y, weight = _outputs(target, prediction, sample_weight)",
            "_outputs(target, prediction, sample_weight) -> "
            "(_outputs(prediction, target, sample_weight))",
        ): "only (t - y)² and |t - y| are looked at",
    },
    "gpumlp/model.py": {
        (
            "Sequential.features",
            "rows = self.backend.asarray(rows) if scale == 1 else self._scaled(rows, scale)",
            "1 -> 0",
        ): "multiplies by 1",
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
    "gpumlp/samples.py": {
        (
            "_check_weights",
            "total = float(weight.sum())",
            "weight.sum() -> (weight.mean())",
        ): "0 or infinite alike, as a mean is a sum divided",
    },
    "gpumlp/schedules.py": {
        (
            "OneCycle.factors",
            "return np.where(phase < 1, rise, fall)",
            "phase < 1 -> (phase <= 1)",
        ): "both halves are 1 at the peak",
    },
}
OF_KERNELS = {}

EQUIVALENT = {
    (file, *change): reason
    for file, changes in (OF_PYTHON | OF_KERNELS).items()
    for change, reason in changes.items()
}
