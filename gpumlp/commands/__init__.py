"""The subcommands of `gpumlp` besides `train`, one module each.

A module has `add_arguments(parser)` and `run(options)`, which prints its result on stdout and
returns the exit code; `cli` names them all. Errors are raised, and `console.guarded` says them.
"""
