"""What somebody most likely meant: by a key that is unknown, a wrong value, or a line not TOML."""

import re
from collections.abc import Iterator
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from typing import Any

from .config import known_keys

ALIKE = 0.63  # of 1; "optimizer.lz" for "optimizer.lr" just passes
SYNONYMS = {
    "learning_rate": "optimizer.lr",
    "eta": "optimizer.lr",
    "alpha": "optimizer.lr",
    "l2": "optimizer.weight_decay",
    "epsilon": "optimizer.eps",
    "beta1": "optimizer.betas",
    "beta2": "optimizer.betas",
    "gradient_clip": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "solver": "optimizer.name",
    "scheduler": "schedule",
    "criterion": "loss.name",
    "loss_fn": "loss.name",
    "objective": "loss.name",
    "n_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "max_iter": "train.epochs",
    "minibatch": "train.batch_size",
    "hidden_layers": "model.hidden",
    "hidden_units": "model.hidden",
    "hidden_sizes": "model.hidden",
    "hidden_layer_sizes": "model.hidden",
    "nonlinearity": "model.activation",
    "network": "model",
    "validation_split": "data.val",
    "validation": "data.val",
    "train_test_split": "data.test",
    "normalize": "data.scale",
    "callbacks": "early_stopping",
    "logging": "log",
    "random_state": "seed",
    "random_seed": "seed",
    "dtype": "precision",
    "gpu": "device",
}
QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'|#.*')
NO_WHOLE = re.compile(r"(?<![\w.+-])([+-]?\.\d+)")
NO_DECIMALS = re.compile(r"(?<![\w.+-])([+-]?\d+\.)(?!\d)")
WORD = re.compile(r"[=\[,]\s*([A-Za-z][\w:./-]*)\s*(?=[,\]}]|$)")
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def did_you_mean(what: str) -> str:
    """Return the end of a message, or nothing when there is nothing to suggest.

    >>> did_you_mean('"optimizer.lr"')
    '; did you mean "optimizer.lr"?'
    """
    return f"; did you mean {what}?" if what else ""


def nearest_key(key: str) -> str:
    """Return the known key that an unknown one most likely means, or nothing.

    The same word in another section or another spelling comes first, then what other libraries
    call it, then what looks alike.

    >>> [nearest_key(key) for key in ("train.lr", "batchSize", "n_epochs", "model.activaton")]
    ['optimizer.lr', 'train.batch_size', 'train.epochs', 'model.activation']
    """
    word = _plain(_last(key))
    matchers = SequenceMatcher(b=key), SequenceMatcher(b=_last(key))

    def alike(known: str) -> float:
        for matcher, part in zip(matchers, (known, _last(known)), strict=True):
            matcher.set_seq1(part)
        return (matchers[0].ratio() + 2 * matchers[1].ratio()) / 3

    same = [known for known in _known() if word and _plain(_last(known)) == word]
    if "[" not in key:  # a layer's own keys are meant in a layer only
        same = [known for known in same if "[" not in known] or same
    if not same and word in _synonyms():
        return _synonyms()[word]
    best = max(same or _known(), key=alike)
    index = re.search(r"\[\d+\]", key)
    shown = best.replace("[0]", index[0]) if index else best
    return shown if same or alike(best) >= ALIKE else ""


def nearest_name(word: str, names: list[str]) -> str:
    """Return the name most like a word, or nothing.

    >>> nearest_name("ADMM", ["sgd", "adam", "adamw"]), nearest_name("xyzzy", ["sgd"])
    ('adam', '')
    """
    plain = {_plain(name): name for name in names}
    return "".join(plain[near] for near in get_close_matches(_plain(word), plain, 1))


def meant_values(value: Any) -> Iterator[Any]:
    """Yield what could have been meant by a value of the wrong type, the likeliest first.

    >>> list(meant_values("1."))[:2], list(meant_values(32)), next(meant_values(0.2))
    ([1, 1.0], [[32], {'fraction': 32}, '32'], [0.2])
    """
    if isinstance(value, str):
        if value.lower() in WORDS:
            yield WORDS[value.lower()]
        with suppress(ValueError):
            number = float(value)
            yield from ([int(number)] if number.is_integer() else [])
            yield number
        yield value.lower()
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = isinstance(value, str)
        yield [value]
        yield from ({key: value} for key in (("name", "path") if text else ("fraction",)))
        yield str(value)


def syntax_hint(line: str) -> str:
    """Return the end of a message about a line that is not TOML: what to write instead, if clear.

    >>> syntax_hint("lr = .01"), syntax_hint("bias = True"), syntax_hint("activation = relu")
    ('; write 0.01 for .01', '; write true for True', '; write "relu" for relu')
    """
    if re.search(r'"[A-Za-z]:\\', line):
        return "; write a path with backslashes in single quotes"
    rest = QUOTED.sub(lambda found: "" if found[0].startswith("#") else '""', line)
    if re.match(r"\s*[\w.-]+\s*:", rest):
        return "; write key = value"
    for pattern in (NO_WHOLE, NO_DECIMALS, WORD):
        if found := pattern.search(rest):
            given = found[1]
            if pattern is WORD and given in ("true", "false", "inf", "nan"):
                continue
            if given in ("None", "null", "nil"):
                return f"; leave the key out instead of {given}"
            return f"; write {_corrected(given)} for {given}"
    return ""


def _corrected(given: str) -> str:
    """A value in TOML's own spelling: numbers with digits around the point, words in quotes."""
    if given.lower() in ("true", "false"):
        return given.lower()
    if "." not in (given[0], given[-1], given.lstrip("+-")[0]):
        return f'"{given}"'
    sign, number = (given[0], given[1:]) if given[0] in "+-" else ("", given)
    return f"{sign}{'0' * number.startswith('.')}{number}{'0' * number.endswith('.')}"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(word: str) -> str:
    """A word as far as case, hyphens and underscores do not matter."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


@cache
def _known() -> tuple[str, ...]:
    return tuple(known_keys())


@cache
def _synonyms() -> dict[str, str]:
    return {_plain(word): key for word, key in SYNONYMS.items()}
