"""Mutants that no test can tell from the right text, each with the reason why.

A rule leaves out a whole function, or a constant; the others are single changes: file, function,
right and wrong text, as `mutation_testing.py` prints them.
"""

# file, function (or a name that a module's line begins with) -> why what is in it changes no result
RULES = {
    ("gpumlp/backend/base.py", "Backend.threads_for"): "threads change the speed alone",
    ("gpumlp/backend/base.py", "SINGLE_THREADED"): "threads change the speed alone",
    ("gpumlp/backend/base.py", "Backend.seconds"): "measures time",
}

BASE, KINKS, PRECISION = (
    f"gpumlp/{name}.py" for name in ("backend/base", "gradients/kinks", "backend/precision")
)
EQUIVALENT = {
    (BASE, "Backend._blend", "_is(alpha, 1)", "(_is(1, alpha))"): "1 == alpha, too",
    (BASE, "Backend._blend", "_is(beta, 1)", "(_is(1, beta))"): "1 == beta, too",
    (BASE, "Backend.pointwise_loss", "1", "0"): "divides by one output more, which is 1",
    (
        "gpumlp/optimizers.py",
        "Optimizer.update",
        "not written_through and self.clip_norm is not None",
        "(self.clip_norm is not None)",
    ): "an optimizer that clips does not write through",
    (
        "gpumlp/schedules.py",
        "OneCycle.factors",
        "phase < 1",
        "(phase <= 1)",
    ): "both halves are 1 at the peak",
    (
        "gpumlp/losses.py",
        "SoftmaxCrossEntropy.check_target",
        "abs(target.sum(axis=1) - 1) <= 1e-3",
        "(abs(target.sum(axis=1) - 1) < 0.001)",
    ): "no sum of numbers in binary is off by exactly 1e-3",
    ("gpumlp/gradients/differences.py", "module", "4", "5"): "how much rounding is allowed for",
    ("gpumlp/gradients/differences.py", "module", "4", "3"): "how much rounding is allowed for",
    (KINKS, "near_kinks", "x - target", "(target - x)"): "only its size is looked at",
}
