"""What of a configuration is not the default: every such key, and no other."""

import pytest

from gpumlp.config import known_keys
from gpumlp.config_differences import differences
from gpumlp.config_file import load_config, parse_config, shipped_configs

DIGITS = {"data": {"source": "builtin:digits"}}


def found(config):
    return {d.key: (d.value, d.default) for d in differences(config)}


def test_a_configuration_of_defaults_differs_in_what_must_be_given_only():
    assert found(parse_config(DIGITS)) == {"data.source": ("builtin:digits", None)}


def test_what_is_given_as_the_default_is_no_difference():
    config = parse_config(DIGITS | {"model": {"hidden": [64]}, "train": {"epochs": 20}})
    assert list(found(config)) == ["data.source"]


@pytest.mark.parametrize("name", shipped_configs())
def test_a_configuration_made_of_its_differences_is_the_same(name):
    config = load_config(name)
    mapping = {}
    for difference in differences(config):
        *sections, key = difference.key.split(".")
        table = mapping
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = difference.value
        assert difference.meaning == known_keys()[difference.key].description
    assert parse_config(mapping) == config


def test_keys_of_layers_and_of_optional_sections_are_named_one_by_one():
    layers = [{"units": 3, "dropout": 0.5}, {"units": 4}]
    stopping = {"monitor": "loss"}
    config = parse_config(DIGITS | {"model": {"layers": layers}, "early_stopping": stopping})
    assert found(config) == {
        "data.source": ("builtin:digits", None),
        "model.layers[0].units": (3, None),
        "model.layers[0].dropout": (0.5, known_keys()["model.layers[0].dropout"].default),
        "model.layers[1].units": (4, None),
        "early_stopping.monitor": ("loss", "val_loss"),
    }


def test_a_table_that_is_a_value_is_one_difference():
    config = parse_config(DIGITS | {"loss": {"class_weight": {"1": 2.0}}})
    assert found(config)["loss.class_weight"] == ({"1": 2.0}, None)
