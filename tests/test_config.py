"""Configs: what a stage can be told, with the defaults of the method."""

import dataclasses
import json

import pytest

from lynx.config import AlignConfig, GuideConfig, LoraSettings, Sampling, TrainConfig, TuneConfig
from lynx.errors import DataError

CONFIGS = (GuideConfig, TrainConfig, AlignConfig, TuneConfig, Sampling)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_says_what_it_is(config):
    for field in dataclasses.fields(config):
        assert field.metadata["help"], field.name


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_can_be_taken_in_at_a_glance(config):
    assert len(dataclasses.fields(config)) <= 20


def test_defaults_are_those_of_the_released_code():
    align, tune = AlignConfig(), TuneConfig()
    assert (align.layer_reduction, align.query_subset, align.beta) == ("mean", "even", 0.01)
    assert (align.lr, align.warmup, align.weight_decay) == (5e-4, 0.03, 0.0)
    assert align.lora == LoraSettings(64, 128.0, 0.05)
    assert tune.lora == LoraSettings(64, 16.0, 0.05)
    assert tune.token_pooling == "none"


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_survive_json(config):
    assert config(**json.loads(json.dumps(config().to_dict()))) == config()


def test_reentrant_checkpointing_is_refused_with_its_reason():
    with pytest.raises(DataError, match="wrong gradients.*non-reentrant"):
        AlignConfig(checkpointing="reentrant")


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (AlignConfig, {"layer_reduction": "max"}, "layer_reduction is 'max'; it can be mean or sum"),
        (AlignConfig, {"query_subset": "odd"}, "query_subset"),
        (AlignConfig, {"beta": -1}, "beta is -1; it must be at least 0"),
        (TuneConfig, {"token_pooling": "time"}, "none or space or halves or bands"),
        (Sampling, {"replay": 1.5}, "replay is 1.5; it must be between 0 and 1"),
        (TuneConfig, {"batch_size": 0}, "batch_size is 0"),
        (GuideConfig, {"frames": 0}, "frames is 0"),
    ],
)
def test_wrong_values_are_named(config, values, said):
    with pytest.raises(DataError, match=said):
        config(**values)
