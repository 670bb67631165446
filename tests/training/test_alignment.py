"""Stage 2: the losses against values computed by hand and a slow reference, and the stage from end to end."""

import json
from dataclasses import replace

import pytest
import stages
import torch
from torch import nn

from lynx.adapters.format import Adapter
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.backbones.memory import checkpointed
from lynx.config import AlignConfig, LoraSettings
from lynx.datasets.base import Example
from lynx.errors import AdapterError, DataError
from lynx.modalities.audio import Audio, AudioRendering
from lynx.training.alignment import AlignmentLoss, align
from lynx.training.losses import attention_loss, response_distance, statistics_loss
from lynx.types import Waveform


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def model(folder):
    """A model of its own for every test."""
    return stages.small_model(folder)


@pytest.fixture(scope="module")
def guidance(folder):
    return stages.small_guidance(stages.small_model(folder))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_attention(query, key, value):
    """(B, H, q, d), (B, H, n, d) -> (B, q, H * d), matmul and softmax."""
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


# --- the pure functions ---------------------------------------------------------------------------


def test_statistics_loss_by_hand():
    tokens = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), biased variance (1, 4)
    mean, var = torch.tensor([2.0, 5.0]), torch.tensor([4.0, 0.0])
    assert float(statistics_loss(tokens, mean, var)) == pytest.approx(3.0 + 5.0)  # |(0,-3)| + |(-3,4)|


def test_attention_loss_by_hand():
    layers = [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0)]
    assert float(attention_loss(layers)) == 3.0
    assert float(attention_loss(layers, "sum")) == 9.0


def test_response_distance_by_hand():
    """One head, one key each: attention returns the value itself, so the projection's difference is known."""
    query, value = torch.ones(1, 1, 1, 2), torch.tensor([[[[3.0, 1.0]]]])  # (B, H, n, d)
    keys, values = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]]])  # (1, H, n, d)
    project = nn.Linear(2, 2)
    with torch.no_grad():
        project.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
        project.bias.fill_(100.0)
    total, count = response_distance(query, value.transpose(1, 2), keys, values, project)
    assert (total.item(), count) == (2.0 + 3.0, 2)  # difference (2, -1) -> (2, 3)


@pytest.mark.parametrize("subset", [None, [0, 3, 4]])
def test_response_distance_equals_the_slow_way(subset):
    query, key, value = (draw(2, 3, 6, 4, seed=seed) for seed in range(3))
    keys, values = draw(1, 3, 6, 4, seed=3), draw(1, 3, 6, 4, seed=4)
    project = nn.Linear(12, 5)
    chosen = list(range(6)) if subset is None else subset
    real = project(slow_attention(query, key, value))[:, chosen]
    other = project(slow_attention(query, keys.expand(2, 3, 6, 4), values.expand(2, 3, 6, 4)))[:, chosen]
    response = slow_attention(query, key, value).unflatten(2, (3, 4))
    queries = None if subset is None else torch.tensor(subset)
    total, count = response_distance(query, response, keys, values, project, queries)
    torch.testing.assert_close(total / count, (real - other).abs().mean())


# --- the loss on a model --------------------------------------------------------------------------


def with_lora(model, dropout=0.0):
    """A vision LoRA that does something: B is not 0."""
    model.add_adapter(Adapter("audio", "audio", Audio().to_dict()))
    torch.manual_seed(0)
    lora = model.add_lora("audio", "vision", LoraSettings(2, 4.0, dropout))
    for name, weight in model.lora.tensors(lora).items():
        if ".lora_B." in name:
            nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.lora.tensors(lora)


def pictures(model, n=3, seed=0):
    frames = torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    return model.backbone.pixels(frames.to(torch.uint8))


def our_loss(model, guidance, config, pixels, weights):
    """The loss and its gradients as the stage computes them."""
    for weight in weights.values():
        weight.grad = None
    loss = AlignmentLoss(model.backbone, guidance, config)
    with (
        loss.listening(),
        checkpointed(model.backbone.model, config.checkpointing),
        model.sensing("audio", train=True),
    ):
        parts = loss(pixels)
        parts["loss"].backward()
    return parts, {name: weight.grad.clone() for name, weight in weights.items()}


def slow_loss(model, guidance, config, pixels, weights):
    """The loss from hooks on the projections, softmax by hand and the output projection run twice."""
    for weight in weights.values():
        weight.grad = None
    kept: dict[tuple[int, str], torch.Tensor] = {}
    hooks = []
    modules = model.backbone.vision_attention_modules()
    with model.sensing("audio", train=True):  # then the layers with LoRAs stand in the model
        for layer, module in enumerate(modules):
            for part in ("q_proj", "k_proj", "v_proj"):

                def keep(m, i, out, key=(layer, part)):
                    kept[key] = out.unflatten(2, (4, -1)).transpose(1, 2)  # (B, H, n, d)

                hooks.append(getattr(module, part).register_forward_hook(keep))
        tokens = model.backbone.encode(pixels)[0][:-1]
        for hook in hooks:
            hook.remove()
        queries = model.backbone.even_queries(16) if config.query_subset == "even" else torch.arange(16)
        layers = []
        for layer, module in enumerate(modules):
            q, k, v = (kept[layer, part] for part in ("q_proj", "k_proj", "v_proj"))
            keys, values = (m[layer].expand_as(k) for m in (guidance.keys, guidance.values))
            real = module.out_proj(slow_attention(q, k, v))
            reference = module.out_proj(slow_attention(q, keys, values))
            layers.append((real - reference)[:, queries].abs().mean())
        attention = sum(layers) if config.layer_reduction == "sum" else sum(layers) / len(layers)
        mean, var = tokens.mean(0), (tokens - tokens.mean(0)).square().mean(0)
        statistics = (mean - guidance.token_mean).square().sum().sqrt()
        statistics = statistics + (var - guidance.token_var).square().sum().sqrt()
        loss = config.attention_weight * attention + config.beta * statistics
        loss.backward()
    parts = {"loss": loss, "attention_loss": attention, "statistics_loss": statistics}
    return parts, {name: weight.grad.clone() for name, weight in weights.items()}


def assert_same(ours, slow, tolerance=1e-5):
    for name, value in slow[0].items():
        torch.testing.assert_close(ours[0][name], value, rtol=tolerance, atol=1e-7)
    scale = max(float(gradient.abs().max()) for gradient in slow[1].values())
    for name, gradient in slow[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-4, atol=tolerance * scale, msg=name)


def test_the_statistics_count_newlines_if_the_guidance_does(model, guidance):
    """As the released code does: one for each clip of the batch."""
    with_lora(model)
    pixels, guidance = pictures(model, 4), replace(guidance, stat_newline=True)
    loss = AlignmentLoss(model.backbone, guidance, AlignConfig())
    with loss.listening(), model.sensing("audio", train=True), torch.no_grad():
        found = loss(pixels, clips=3)["statistics_loss"]
        tokens = model.backbone.encode(pixels)[0]  # the newline last
    counted = torch.cat([tokens, tokens[-1:], tokens[-1:]])
    mean, var = counted.mean(0), counted.var(0, correction=0)
    expected = (mean - guidance.token_mean).norm() + (var - guidance.token_var).norm()
    torch.testing.assert_close(found, expected)
    plain = statistics_loss(tokens[:-1], guidance.token_mean, guidance.token_var)
    assert not torch.isclose(found, plain, rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_reduction": "sum", "query_subset": "all", "beta": 0.5},
        {"attention_weight": 0.0, "beta": 1.0},
        {"checkpointing": "non-reentrant", "beta": 0.1},
    ],
    ids=["released", "paper", "statistics", "checkpointed"],
)
def test_loss_and_lora_gradients_equal_the_slow_reference(model, guidance, settings):
    weights, config, pixels = with_lora(model), AlignConfig(**settings), pictures(model)
    slow = slow_loss(model, guidance, config, pixels, weights)
    assert all(gradient.any() for gradient in slow[1].values())
    assert_same(our_loss(model, guidance, config, pixels, weights), slow)


def test_every_frame_weighs_the_same_however_the_encoder_splits_them(model, guidance, monkeypatch):
    weights, pixels = with_lora(model), pictures(model, n=3)
    whole = our_loss(model, guidance, AlignConfig(), pixels, weights)
    monkeypatch.setattr(LlavaOnevision, "frames_per_pass", 2)  # 2 frames, then 1
    assert_same(our_loss(model, guidance, AlignConfig(), pixels, weights), whole)


def test_dropout_falls_on_both_responses_alike(model, guidance):
    """With the modality's own keys and values as reference there is no distance, dropout or not."""
    weights = with_lora(model, dropout=0.5)
    module = model.backbone.vision_attention_modules()[0]
    query, key, value = (draw(1, 4, 16, 8, seed=seed) for seed in range(3))
    response = slow_attention(query, key, value).unflatten(2, (4, 8))
    with model.sensing("audio", train=True):
        total, count = response_distance(query, response, key, value, module.out_proj)
    assert weights
    assert total.item() / count < 1e-6


def test_the_loss_leaves_no_trace(model, guidance):
    before = model.backbone.encode(pictures(model))[0]
    weights = with_lora(model)
    modes = {name: module.training for name, module in model.backbone.model.named_modules()}
    our_loss(model, guidance, AlignConfig(checkpointing="non-reentrant"), pictures(model), weights)
    assert model.backbone.encode(pictures(model))[0].equal(before)
    assert not any(weight.requires_grad for weight in weights.values())
    assert {name: module.training for name, module in model.backbone.model.named_modules()} == modes


# --- the stage ------------------------------------------------------------------------------------

SHORT = AlignConfig(steps=6, rank=2, alpha=4, batch_size=4, frames=stages.FRAMES, lr=2e-2, save_every=2)


def run(model, guidance, out, config=SHORT, **options):
    examples = stages.clips(4, ("audio",))
    return align(model, "audio", examples, guidance, config, out, progress=False, **options)


def log(folder):
    return [json.loads(row) for row in (folder / "training" / "align" / "log.jsonl").read_text().splitlines()]


def test_a_finished_alignment_is_not_repeated(folder, model, guidance, tmp_path, caplog):
    report = run(model, guidance, tmp_path)
    assert model.adapter("audio").frames == stages.FRAMES
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = stages.small_model(folder)
    assert run(other, guidance, tmp_path) == report
    assert "finished already; --no-resume starts anew" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    trained = model.lora.tensors("audio_vision")
    assert all(w.equal(trained[name]) for name, w in other.lora.tensors("audio_vision").items())
    caplog.clear()
    run(stages.small_model(folder), guidance, tmp_path, replace(SHORT, resume=False))
    assert "finished already" not in caplog.text


def test_alignment_writes_an_adapter_and_reports_what_it_trained(folder, model, guidance, tmp_path):
    pixels = pictures(model)
    before = model.backbone.encode(pixels)[0]
    report = run(model, guidance, tmp_path)
    assert model.backbone.encode(pixels)[0].equal(before)  # off, the encoder is what it was
    shapes = [tensor.shape for tensor in model.lora.tensors("audio_vision").values()]
    assert report["parameters"] == sum(shape.numel() for shape in shapes)
    assert report["modules"] == 3 * 6  # q k v out fc1 fc2 of 3 layers
    assert (report["steps"], report["batch"], report["without_gradient"]) == (6, 2, [])
    rows = log(tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]
    other = stages.small_model(folder)
    adapter = other.load_adapter(tmp_path)
    assert adapter.training["align"]["config"]["beta"] == 0.01
    assert adapter.rendering == Audio().to_dict()
    trained = model.lora.tensors("audio_vision")
    assert all(tensor.equal(trained[name]) for name, tensor in other.lora.tensors("audio_vision").items())


class Dying:
    """Examples whose n-th reading ends the run."""

    def __init__(self, examples, reads):
        self.examples, self.reads = examples, reads

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return self.examples[index]


def test_an_interrupted_alignment_ends_with_the_same_bits(folder, model, guidance, tmp_path):
    run(model, guidance, tmp_path / "whole")
    broken = stages.small_model(folder)
    with pytest.raises(KeyboardInterrupt):
        examples = Dying(stages.clips(4, ("audio",)), 1 + 2 * 3)
        align(broken, "audio", examples, guidance, SHORT, tmp_path / "broken", progress=False)
    assert not broken.adapters  # the model is as it was
    run(broken, guidance, tmp_path / "broken")
    whole = model.lora.tensors("audio_vision")
    assert all(tensor.equal(whole[name]) for name, tensor in broken.lora.tensors("audio_vision").items())


def test_no_steps_make_an_adapter_that_changes_nothing(model, guidance, tmp_path):
    run(model, guidance, tmp_path, AlignConfig(steps=0, rank=2, frames=stages.FRAMES))
    frames = Audio().render(stages.clips(1)[0].media["audio"], torch.tensor([0.5, 1.5]))
    assert model.encode("audio", frames).tokens.equal(model.encode("video", frames).tokens)


def test_the_rendering_travels_with_the_adapter(model, guidance, tmp_path):
    sense = Audio(AudioRendering(n_mels=32))
    align(model, sense, stages.clips(2, ("audio",)), guidance, SHORT, tmp_path, name="ears", progress=False)
    assert model.modality("ears").rendering.n_mels == 32
    assert (model.adapter("audio").name, model.parts("ears")) == ("ears", ("vision",))


def test_what_cannot_be_aligned_is_said(model, guidance, tmp_path):
    with pytest.raises(DataError, match="'clip0' has no audio"):
        align(model, "audio", stages.clips(1, ("video",)), guidance, SHORT, tmp_path, progress=False)
    assert not model.adapters
    run(model, guidance, tmp_path)
    with pytest.raises(AdapterError, match="loaded already"):
        run(model, guidance, tmp_path)
    with pytest.raises(DataError, match="run `lynx guide` with this backbone"):
        AlignmentLoss(stages.small_model(tmp_path, seed=1).backbone, guidance, SHORT)


def test_silence_is_aligned_as_well(model, guidance, tmp_path):
    silent = [Example(f"silent{i}", {"audio": Waveform(torch.zeros(32000), 16000)}) for i in range(2)]
    report = align(model, "audio", silent, guidance, SHORT, tmp_path, progress=False)
    assert report["last"]["loss"] < 1e3
