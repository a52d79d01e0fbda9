"""Where the kernel sources lie, their text, and what parameters each kernel has."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parents[1]
# in an installed package, or beside it in a checkout
FOLDERS = _PACKAGE / "_kernels", _PACKAGE.parent / "kernels"

Parameters = dict[str, str]  # name → C type, in order


def kernel_folder() -> Path:
    """Return the folder of the kernel sources; FileNotFoundError where there is none."""
    for folder in FOLDERS:
        if (folder / "portable.h").is_file():
            return folder
    raise FileNotFoundError(f"no kernel sources in {' or '.join(map(str, FOLDERS))}")


def kernel_source(name: str) -> str:
    """Return the text of a .cu file with its own headers pasted in, each once.

    CuPy's cache of compiled kernels knows a source by its text alone, headers excluded.

    >>> '#include "portable.h"' in kernel_source("update.cu")
    False
    """
    seen: set[str] = set()

    def paste(match: re.Match[str]) -> str:
        header = match[1]
        if header in seen or not (kernel_folder() / header).is_file():
            return ""
        seen.add(header)
        return expand(header)

    def expand(file: str) -> str:
        text = (kernel_folder() / file).read_text(encoding="utf-8")
        return re.sub(r'^ *#include "([\w.]+)"$', paste, text, flags=re.M).replace(
            "#pragma once\n", ""
        )

    return expand(name)


def parse_parameters(text: str) -> Parameters:
    """Return the parameters of a C parameter list.

    >>> parse_parameters("float* w, const float* g, size_t n")
    {'w': 'float*', 'g': 'float*', 'n': 'size_t'}
    """
    parameters = {}
    for parameter in text.split(","):
        kind, _, name = " ".join(parameter.split()).removeprefix("const ").rpartition(" ")
        parameters[name] = kind
    return parameters


class Declaration(NamedTuple):
    """A kernel for the GPU: the file it stands in, its parameters, and the arrays it writes."""

    file: str
    parameters: Parameters
    outputs: frozenset[str]


@cache
def kernel_declarations() -> dict[str, Declaration]:
    """Return every kernel for the GPU by name."""
    found = {}
    for path in sorted(kernel_folder().glob("*.cu")):
        text = path.read_text(encoding="utf-8")
        for name, declared in re.findall(r"^KERNEL\((\w+),([^)]*)\)", text, re.M):
            parameters = parse_parameters(declared)
            constant = re.findall(r"const \w+\* (\w+)", declared)
            pointers = {p for p, kind in parameters.items() if kind.endswith("*")}
            found[name] = Declaration(path.name, parameters, frozenset(pointers - {*constant}))
    return found


@cache
def declared_kernels() -> dict[str, Parameters]:
    """Return the parameters of every kernel for the GPU: name → parameters."""
    return {name: kernel.parameters for name, kernel in kernel_declarations().items()}
