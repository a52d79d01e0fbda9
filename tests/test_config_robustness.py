"""Every key of the configuration, wrong in every way, through the command line.

`python tests/test_config_robustness.py` asks for a suggestion for all misspellings one edit away,
of which the tests take a sample, and prints how many are right.
"""

import json
import string
import sys
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
from test_config import KEYS, LIMITED, configured, dotted, out_of_range, wrong_types

from gpumlp import train
from gpumlp.config_file import LONGEST_LIST, load_config, shipped_configs
from gpumlp.errors import ConfigError
from gpumlp.suggestions import SYNONYMS, nearest_key, nearest_name

DATA = '[data]\nsource = "builtin:digits"\n'
VALID = DATA + "val = { fraction = 0.1 }\n"
LAYERS = "[[model.layers]]\nunits = 3\n"


class Refusal(NamedTuple):
    """The lines of what was said on stderr: the file's, and those of the keys."""

    title: str
    problems: dict[str, str]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run `train` in a folder of its own, check all that every refusal has in common."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"

    def run(content: str | dict[str, Any], *overrides: str) -> Refusal:
        text = content if isinstance(content, str) else tomli_w.dumps(content)
        path.write_text(text, encoding="utf-8")
        options = [part for override in overrides for part in ("--set", override)]
        code = train.main(["--config", "my.toml", *options])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), (text, overrides, err)
        assert "Traceback" not in err
        assert err.startswith("my.toml: ")
        assert [file.name for file in tmp_path.iterdir()] == ["my.toml"]
        title, *lines = err.splitlines()
        pairs = (line.strip().split("    ", 1) for line in lines)
        return Refusal(title, {key: problem.strip() for key, problem in pairs})

    return run


def inline(value: Any) -> str:
    """A value as it stands on one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def test_values_are_written_on_one_line():
    value = {"a": [1, "b", {}], "c": True, "d": float("inf"), "e": date(1979, 5, 27)}
    assert inline(value) == '{a = [1, "b", {}], c = true, d = inf, e = 1979-05-27}'


def values_of_wrong_type(key: str) -> Iterator[Any]:
    return wrong_types(KEYS[key][1])


def values_out_of_range(key: str) -> Iterator[Any]:
    return out_of_range(KEYS[key][1])


WRONG = [(key, values_of_wrong_type) for key in KEYS]
WRONG += [(key, values_out_of_range) for key in LIMITED]


@pytest.mark.parametrize(("key", "values"), WRONG)
def test_a_wrong_value_in_a_file_is_refused_at_its_key(refused, key, values):
    for value in values(key):
        problems = refused(configured(KEYS[key][0], value)).problems
        assert problems
        assert all(name.startswith(key) for name in problems), (value, problems)


@pytest.mark.parametrize(("key", "values"), WRONG)
def test_a_wrong_value_of_set_is_refused_at_its_key(refused, key, values):
    valid = VALID + LAYERS * ("[0]" in key)
    for value in values(key):
        problems = refused(valid, f"{key}={inline(value)}").problems
        assert problems
        assert all(name.startswith(key) for name in problems), (value, problems)


# ------------------------------------------------------------------------- misspelt keys


def one_edit(word: str) -> set[str]:
    """All words one edit away: a letter missing, exchanged with the next, replaced, or added."""
    letters = string.ascii_lowercase + "_"
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    words = {a + b[1:] for a, b in cuts if b}
    words |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    words |= {a + c + b[1:] for a, b in cuts if b for c in letters}
    words |= {a + c + b for a, b in cuts for c in letters}
    return words - {word, ""}


def misspelt(every: int = 1) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """(key, path with its last word misspelt), each of them or one in so many."""
    pairs = [
        (key, (*path[:-1], word))
        for key, (path, _) in KEYS.items()
        for word in sorted(one_edit(str(path[-1])))
    ]
    return ((key, wrong) for key, wrong in pairs[::every] if dotted(wrong) not in KEYS)


def wrong_suggestions(pairs: Iterable[tuple[str, tuple[str | int, ...]]]) -> list[str]:
    return [
        f"{dotted(wrong)}: {near}"
        for key, wrong in pairs
        if (near := nearest_key(dotted(wrong))) != key
    ]


def test_a_misspelt_key_is_named_and_the_right_one_suggested_in_19_of_20_cases():
    pairs = list(misspelt(every=67))  # a prime, so that every kind of edit has its turn
    missed = wrong_suggestions(pairs)
    assert len(pairs) > 500
    assert len(missed) <= 0.05 * len(pairs), missed


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelt_key_is_refused_by_name_in_a_file_and_in_set(refused, key):
    path = KEYS[key][0]
    words = sorted(
        word for word in one_edit(str(path[-1])) if dotted((*path[:-1], word)) not in KEYS
    )
    wrong = (*path[:-1], words[len(key) * 7 % len(words)])
    expected = f'unknown key; did you mean "{nearest_key(dotted(wrong))}"?'
    problems = refused(configured(wrong, 1)).problems
    assert problems[dotted(wrong)].startswith("unknown key")
    assert set(problems) == {dotted(wrong)}
    if nearest_key(dotted(wrong)):
        assert problems[dotted(wrong)] == expected
    assert refused(VALID + LAYERS * ("[0]" in key), f"{dotted(wrong)}=1").problems == problems


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        # the wrong section, or none
        ("lr", "optimizer.lr"),
        ("train.lr", "optimizer.lr"),
        ("model.epochs", "train.epochs"),
        ("epochs", "train.epochs"),
        ("train.dropout", "model.dropout"),
        ("data.batch_size", "train.batch_size"),
        ("model.weight_decay", "optimizer.weight_decay"),
        ("data.seed", "seed"),
        ("train.device", "device"),
        ("train.early_stopping", "early_stopping"),
        ("hidden", "model.hidden"),
        # another spelling
        ("train.batch-size", "train.batch_size"),
        ("train.batchSize", "train.batch_size"),
        ("train.BatchSize", "train.batch_size"),
        ("train.batchsize", "train.batch_size"),
        ("Optimizer", "optimizer"),
        ("EarlyStopping", "early_stopping"),
        ("early-stopping", "early_stopping"),
        ("data.split-seed", "data.split_seed"),
        ("train.maxSteps", "train.max_steps"),
        ("schedule.warmupSteps", "schedule.warmup_steps"),
        # singular and plural
        ("train.epoch", "train.epochs"),
        ("train.metric", "train.metrics"),
        ("model.layer", "model.layers"),
        ("model.activations", "model.activation"),
        ("model.inits", "model.init"),
        ("optimizers", "optimizer"),
        ("optimizer.beta", "optimizer.betas"),
        ("models", "model"),
        # British spelling, other forms of a word
        ("optimiser", "optimizer"),
        ("training", "train"),
        ("logging", "log"),
        # words of other libraries
        ("learning_rate", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("optimizer.learningRate", "optimizer.lr"),
        ("optimizer.learning-rate", "optimizer.lr"),
        ("train.n_epochs", "train.epochs"),
        ("train.num_epochs", "train.epochs"),
        ("train.max_epochs", "train.epochs"),
        ("train.max_iter", "train.epochs"),
        ("model.hidden_layers", "model.hidden"),
        ("model.hidden_layer_sizes", "model.hidden"),
        ("model.hidden_sizes", "model.hidden"),
        ("model.hidden_units", "model.hidden"),
        ("model.dropout_rate", "model.dropout"),
        ("model.activation_function", "model.activation"),
        ("loss.criterion", "loss.name"),
        ("criterion", "loss.name"),
        ("scheduler", "schedule"),
        ("optimizer.epsilon", "optimizer.eps"),
        ("optimizer.beta_1", "optimizer.betas"),
        ("optimizer.l2", "optimizer.weight_decay"),
        ("optimizer.clipnorm", "optimizer.clip_norm"),
        ("optimizer.grad_clip", "optimizer.clip_norm"),
        ("random_state", "seed"),
        ("train.validation_split", "data.val"),
        ("data.validation", "data.val"),
        ("dtype", "precision"),
        ("gpu", "device"),
        ("network.hidden", "model"),
    ],
)
def test_common_slips_are_answered_with_the_key_that_is_meant(given, meant, refused):
    first, *rest = given.split(".")
    sections = {"data": {"source": "builtin:digits"}}
    table = sections.setdefault(first, {}) if rest else sections
    table[rest[0] if rest else first] = 1
    named = first if rest and first not in KEYS else given
    expected = {named: f'unknown key; did you mean "{meant}"?'}
    assert refused(sections).problems == expected
    assert refused(DATA, f"{given}=1").problems == expected


def test_every_synonym_leads_to_a_key_and_is_none_itself():
    assert set(SYNONYMS.values()) <= set(KEYS)
    assert not set(SYNONYMS) & {key.rpartition(".")[2] for key in KEYS}
    assert {nearest_key(word) for word in SYNONYMS} == set(SYNONYMS.values())


@pytest.mark.parametrize("key", ["xyzzy", "model.qqq", '"a b"', '""', '"ü"'])
def test_a_key_like_no_other_gets_no_suggestion(refused, key):
    assert refused(f"{key} = 1\n{DATA}").problems == {key: "unknown key"}


# ------------------------------------------------------------------------- values that are near


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("lr = .01", "write 0.01 for .01"),
        ("lr = -.5", "write -0.5 for -.5"),
        ("lr = 1.", "write 1.0 for 1."),
        ("lr = 1.e-3", "write 1.0 for 1."),
        ("betas = [.9, 0.99]", "write 0.9 for .9"),
        ("betas = [0.9, 1.]", "write 1.0 for 1."),
        ("shuffle = True", "write true for True"),
        ("shuffle = FALSE  # never", "write false for FALSE"),
        ("test = { stratify = False }", "write false for False"),
        ("name = adam", 'write "adam" for adam'),
        ("metrics = [accuracy, auc]", 'write "accuracy" for accuracy'),
        ("source = builtin:digits", 'write "builtin:digits" for builtin:digits'),
        ("val = None", "leave the key out instead of None"),
        ("val = null", "leave the key out instead of null"),
        ("lr: 0.1", "write key = value"),
        ('path = "C:\\Users\\me"', "write a path with backslashes in single quotes"),
    ],
)
def test_a_line_that_is_almost_toml_is_answered_with_what_to_write(refused, line, hint):
    title, problems = refused(f"seed = 0\n{line}\n{DATA}")
    assert title.startswith("my.toml: line 2, column ")
    assert title.endswith(f"; {hint}")
    assert not problems


@pytest.mark.parametrize(
    "line",
    ["[data]", "[[data]]", "a = 1\na = 1", 'a = "x', "a = ", "= 1", "a b = 1", "a = 0x", "a"],
)
def test_other_lines_that_are_not_toml_get_no_wrong_advice(refused, line):
    title, _ = refused(f"[data]\n{line}\n")
    assert "; write" not in title
    assert "; leave" not in title


def test_no_hint_is_given_about_what_stands_in_quotes_or_comments(refused):
    title, _ = refused(f'name = "a = .5" "True" # lr = .5\n{DATA}')
    assert "; write" not in title


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("model.hidden", "32", "[32]"),
        ("model.hidden", '["64"]', "64"),
        ("model.hidden", "[32.0]", "32"),
        ("train.epochs", "10.0", "10"),
        ("train.epochs", "1e3", "1000"),
        ("train.epochs", '"20"', "20"),
        ("train.batch_size", '"FULL"', '"full"'),
        ("train.batch_size", '"64"', "64"),
        ("train.shuffle", '"False"', "false"),
        ("train.shuffle", '"no"', "false"),
        ("train.metrics", '"accuracy"', '["accuracy"]'),
        ("optimizer.lr", '"1e-3"', "0.001"),
        ("optimizer.name", '"Adam"', '"adam"'),
        ("optimizer.name", '"adaw"', '"adamw"'),
        ("model.activation", '"LeakyReLU"', '"leaky_relu"'),
        ("optimizer", '"adam"', '{name = "adam"}'),
        ("schedule", '"cosine"', '{name = "cosine"}'),
        ("data.test", "0.2", "{fraction = 0.2}"),
        ("data.test", '"test.npz"', '{path = "test.npz"}'),
        ("name", "7", '"7"'),
        ("device", '"CPU"', '"cpu"'),
        ("data.source", '"MNIST"', '"mnist"'),
        ("data.source", '"Builtin:XOR"', '"builtin:xor"'),
        ("seed", '"1"', "1"),
    ],
)
def test_a_value_that_is_almost_right_is_answered_with_one_that_is_accepted(
    refused, key, given, meant
):
    problems = refused(DATA, f"{key}={given}").problems
    assert len(problems) == 1
    assert next(iter(problems.values())).endswith(f"; did you mean {meant}?")
    accepted = f"[{meant}]" if given.startswith("[") else meant
    load_config("digits", [f"{key}={accepted}"])


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("optimizer.lr=.01", "did you mean 0.01?"),
        ("optimizer.lr=1.", "did you mean 1?"),
        ("train.shuffle=True", "did you mean true?"),
        ("optimizer.betas=[.9,.99]", "write 0.9 for .9"),
        ("train.metrics=[accuracy]", 'write "accuracy" for accuracy'),
    ],
)
def test_set_gives_the_same_advice(refused, override, hint):
    (problem,) = refused(DATA, override).problems.values()
    assert problem.endswith(hint)


def test_a_value_far_from_right_gets_no_suggestion(refused):
    for override in ("optimizer.lr=fast", "train.epochs=0", "seed=-1", "data.test=2", "model=3"):
        (problem,) = refused(DATA, override).problems.values()
        assert "did you mean" not in problem


# ------------------------------------------------------------------------- shipped configurations


def refusal(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    return str(caught.value)


@pytest.mark.parametrize("name", shipped_configs())
def test_a_misspelt_shipped_name_is_answered_with_the_right_one(name):
    shipped = list(shipped_configs())
    wrong = sorted(one_edit(name) - set(shipped))
    missed = [word for word in wrong if nearest_name(word, shipped) != name]
    assert len(missed) <= 0.05 * len(wrong), missed
    for text in (name.upper(), f"configs/{name}s.toml", f"{name}.tml"):
        assert refusal(text).endswith(f'; did you mean "{name}"?')


def test_many_shipped_names_are_not_all_listed(monkeypatch):
    names = [f"config-{i}" for i in range(LONGEST_LIST + 3)]
    monkeypatch.setattr("gpumlp.config_file.shipped_configs", lambda: dict.fromkeys(names, Path()))
    last = f'"config-{LONGEST_LIST - 1}" and 3 more (gpumlp config list)'
    assert refusal("xyzzy").endswith(last)


if __name__ == "__main__":
    everything = list(misspelt())
    missed = wrong_suggestions(everything)
    print(*missed, sep="\n")
    right = 1 - len(missed) / len(everything)
    print(
        f"{right:.2%} of {len(everything):,} misspellings of {len(KEYS)} keys lead to the right key"
    )
    sys.exit(right < 0.95)
