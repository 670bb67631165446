"""What every family promises, on small checkpoints of the stock classes: one suite, not a copy a family."""

import random
import re
from dataclasses import replace
from itertools import combinations

import checkpoints
import families
import pytest
import stages
import torch
from checkpoints import arguments, clip, followed, random_adapter, sound, stock_inputs
from families.base import IN_ORDER
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

import lynx
from lynx import BackboneError
from lynx.adapters.format import Adapter
from lynx.adapters.saving import save_adapter
from lynx.backbones import FAMILIES, load_backbone
from lynx.backbones.attention import recording
from lynx.backbones.memory import checkpointed
from lynx.config import AlignConfig, GuideConfig, LoraSettings, Sampling, TuneConfig
from lynx.datasets.base import Example, Turn
from lynx.errors import DataError, MediaError
from lynx.model import Lynx
from lynx.training.alignment import AlignmentLoss, align
from lynx.training.guidance import guide
from lynx.training.packing import IGNORE, Packer
from lynx.training.tuning import tune
from lynx.training.tuning_loss import answer_loss
from lynx.types import Prompt, sample_times

QUESTION = [{"role": "user", "content": "what is it ?"}]
LONGER = [*QUESTION, {"role": "assistant", "content": "a"}, {"role": "user", "content": "and then ?"}]


@pytest.fixture(scope="module", params=sorted(checkpoints.VARIANTS))
def kind(request):
    """A family, or one of its checkpoints with another LLM."""
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return checkpoints.VARIANTS[kind](tmp_path_factory.mktemp(kind))


@pytest.fixture
def model(folder):
    return lynx.load(folder)


def stock(folder, dtype=torch.float32):
    """transformers' own model, with its own attention."""
    found = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    # torch multiplies a slice by weights that ask for gradients in another order, even under no_grad
    return found.requires_grad_(False)


# --- the backbone is never damaged ----------------------------------------------------------------


def left_padded(backbone, prompts):
    """Several prompts -> one batch."""
    length = max(prompt.input_ids.shape[1] for prompt in prompts)
    pad_ids = torch.full((1, length), backbone.pad_id)
    pad_embeds = backbone.embed(pad_ids)
    ids, embeds, masks, positions = [], [], [], []
    for prompt in prompts:
        gap = length - prompt.input_ids.shape[1]
        ids.append(torch.cat([pad_ids[:, :gap], prompt.input_ids], dim=1))
        embeds.append(torch.cat([pad_embeds[:, :gap], prompt.inputs_embeds], dim=1))
        masks.append(F.pad(prompt.attention_mask, (gap, 0)))
        positions.append(F.pad(prompt.position_ids, (gap, 0)))  # padding is masked: any position will do
    return Prompt(torch.cat(ids), torch.cat(embeds), torch.cat(masks), torch.cat(positions, dim=-2))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 50), (3, 50, 1), (3, 2, 500), (5, 600, 2)])
def test_a_clip_of_any_shape_has_as_many_tokens_as_were_counted_or_is_refused_in_words(kind, model, shape):
    """Stock Qwen takes frames up to 200 times as long as they are wide."""
    backbone, video = model.backbone, clip(*shape)
    if kind.startswith("qwen") and max(shape[1:]) > 200 * min(shape[1:]):
        said = rf"frames are {shape[2]} x {shape[1]} pixels.*smaller than 200.*cropped or padded"
        with pytest.raises(MediaError, match=said):
            backbone.tokens(shape[0], shape[1:])
        with pytest.raises(MediaError, match=said):
            backbone.video_pixels(video.pixels)
        with pytest.raises(MediaError, match=said):
            model.chat(video=video, frames=shape[0])
    else:
        chat = model.chat(video=video, frames=shape[0])
        chat.ask("what ?", max_new_tokens=2)
        assert len(chat.streams["video"].tokens) == backbone.tokens(shape[0], shape[1:])


def test_every_family_is_among_them():
    assert set(FAMILIES) == set(checkpoints.FAMILIES) <= set(checkpoints.VARIANTS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_prefill_and_generation_are_bit_identical_to_stock(kind, tmp_path, precision, tied):
    """tied: of the embeddings with the head, as in the smaller models."""
    folder = checkpoints.VARIANTS[kind](tmp_path, tied=tied)
    model = lynx.load(folder, precision=precision)
    head, embeddings = model.backbone.model.lm_head, model.backbone.model.get_input_embeddings()
    assert (head.weight is embeddings.weight) == tied
    plain, video = stock(folder, model.backbone.dtype), clip(5)
    inputs = stock_inputs(model.backbone, video, QUESTION)
    prompt = model.backbone.compose(QUESTION, [model.encode("video", video)])
    assert torch.equal(prompt.input_ids, inputs["input_ids"])
    given = arguments(model.backbone, prompt)
    assert torch.equal(model.backbone.model(**given).logits, plain(**inputs).logits)
    for penalty in (1.0, 1.3):  # some checkpoints have one, which is on what the prompt says too
        for each in (plain, model.backbone.model):
            each.generation_config.repetition_penalty = penalty
        expected = plain.generate(**inputs, max_new_tokens=12, do_sample=False)
        new = expected[:, prompt.input_ids.shape[1] :]
        assert torch.equal(model.generate(prompt, max_new_tokens=12), new)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_a_left_padded_batch_is_bit_identical_to_stock(folder, precision):
    backbone, video = load_backbone(folder, precision=precision), clip(4)
    plain = stock(folder, backbone.dtype)
    rows = [stock_inputs(backbone, video, messages) for messages in (QUESTION, LONGER)]
    length = max(row["input_ids"].shape[1] for row in rows)
    gaps = [length - row["input_ids"].shape[1] for row in rows]
    inputs = {}
    for key in rows[0]:
        if rows[0][key].shape[-1] == rows[0]["input_ids"].shape[1]:
            fill = backbone.pad_id if key == "input_ids" else 0
            padded = [F.pad(row[key], (gap, 0), value=fill) for row, gap in zip(rows, gaps, strict=True)]
            inputs[key] = torch.cat(padded)
        else:
            inputs[key] = torch.cat([row[key] for row in rows])
    # Stock encodes the clips of a batch in one pass; in passes of their own the last bit may differ.
    found = families.of(backbone).encoded_together(backbone, inputs)
    tokens, layout = backbone.encode(backbone.video_pixels(video.pixels))
    tolerance = {"fp32": 1e-5, "bf16": 5e-2}[precision]
    assert torch.allclose(found[0].float(), tokens.float(), atol=tolerance, rtol=tolerance)
    model = Lynx(backbone)
    streams = [replace(model.encode("video", video), tokens=each) for each in found]
    prompts = [backbone.compose(m, [s]) for m, s in zip((QUESTION, LONGER), streams, strict=True)]
    batch = left_padded(backbone, prompts)
    assert torch.equal(batch.input_ids, inputs["input_ids"])
    assert torch.equal(batch.attention_mask, inputs["attention_mask"])
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    expected = plain.generate(**inputs, **options)
    ours = backbone.model.generate(**{"input_ids": batch.input_ids, **arguments(backbone, batch)}, **options)
    assert torch.equal(ours.sequences, expected.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, expected.logits, strict=True))


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_switches_leave_no_trace(model, folder, tmp_path, seed):
    """Random sequences of senses, none to three in every order, with failures, unloading and loading between.

    With no sense the logits are stock's; in a state that was there before, what they were, bit by bit.
    """
    video, rng, names = clip(2), random.Random(seed), ["first", "second", "third"]
    for name in names:
        random_adapter(model, name)
        save_adapter(model, name, tmp_path / name)
    drawn = model.modality("first").render(sound(1.0), video.times)
    seen = {(): stock(folder)(**stock_inputs(model.backbone, video, QUESTION)).logits}

    def look(senses, fail):
        with model.using(*senses):
            streams = [model.encode(sense, drawn) for sense in senses]
            prompt = model.backbone.compose(QUESTION, [model.encode("video", video), *streams])
            logits = model.backbone.model(**arguments(model.backbone, prompt)).logits
            if fail:
                raise KeyError(senses)
        return logits

    states = [(name,) for name in names]  # each alone at least once
    states += [tuple(rng.sample(names, rng.choice([0, 1, 2, 2, 3]))) for _ in range(24)]
    rng.shuffle(states)
    for senses in states:
        if rng.random() < 0.3:
            with pytest.raises(KeyError):
                look(senses, fail=True)
        if rng.random() < 0.2:
            gone = rng.choice(names)
            model.unload_adapter(gone)
            assert torch.equal(look((), fail=False), seen[()])
            model.load_adapter(tmp_path / gone)
        logits = look(senses, fail=False)
        assert torch.equal(logits, seen.setdefault(senses, logits)), senses
        assert model.lora.on == ()
    assert len(seen) < len(states), "no state came twice"
    ends = [logits[:, -1] for logits in seen.values()]
    assert all(not torch.equal(a, b) for a, b in combinations(ends, 2)), "a switch that does nothing"


def test_the_llm_s_lora_is_on_every_linear_of_its_layers(model):
    linears = [name for name, m in model.backbone.model.named_modules() if isinstance(m, torch.nn.Linear)]
    inside = [name for name in linears if name.startswith(families.of(model.backbone).llm)]
    assert len(inside) == 2 * 7
    assert [name for name in linears if re.fullmatch(model.backbone.llm_targets, name)] == inside


# --- tokens and positions -------------------------------------------------------------------------


@torch.no_grad()
def test_tokens_are_counted_before_they_are_there(model):
    random_adapter(model, "audio")
    random_adapter(model, "pooled", token_pooling="space")
    random_adapter(model, "halved", token_pooling="halves")
    random_adapter(model, "banded", token_pooling="bands")
    for n in (1, 2, 5):
        for size in ((50, 70), (30, 20)):
            frames = clip(n, *size)
            stream = model.encode("video", frames)
            assert len(stream.tokens) == model.tokens("video", n, size)
            assert (stream.times.isnan() == (stream.cells[:, 0] < 0)).all()
        frames = model.modality("audio").render(sound(), clip(n).times)
        assert len(model.encode("audio", frames).tokens) == model.tokens("audio", n)
        pooled = model.encode("pooled", frames)
        assert len(pooled.tokens) == model.tokens("pooled", n) and pooled.grid == (1, 1)
        steps = model.encode("audio", frames).steps
        assert pooled.steps == steps
        halved = model.encode("halved", frames)
        assert len(halved.tokens) == model.tokens("halved", n) and halved.steps == min(2, steps)
        banded = model.encode("banded", frames)
        assert len(banded.tokens) == model.tokens("banded", n) and banded.grid == (halved.grid[0], 1)


def test_short_clips_are_encoded_together_as_each_alone(model, monkeypatch):
    """In order, with what ends each of them, also beside clips of other lengths and shapes, and long ones."""
    random_adapter(model, "audio")
    random_adapter(model, "pooled", token_pooling="halves")
    most = model.backbone.frames_per_pass
    sizes = [(1, 50, 70), (3, 50, 70), (2, 70, 40), (most + 1, 50, 70), (3, 50, 70), (4, 70, 40), (1, 50, 70)]
    videos = [clip(*size, seed=i) for i, size in enumerate(sizes)]
    encode, passes = model.backbone.encode, []
    monkeypatch.setattr(model.backbone, "encode", lambda pixels: passes.append(len(pixels)) or encode(pixels))
    for sense in ("video", "audio", "pooled"):
        expected = [model.encode(sense, video) for video in videos]
        alone = len(passes)
        found = model.encode_clips(sense, videos)
        together, passes = passes[alone:], []
        assert len(together) < alone and max(together) <= most
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-5, atol=1e-5)
            assert one.cells.equal(other.cells) and one.grid == other.grid and one.duration == other.duration
            assert one.times.nan_to_num(-1).equal(other.times.nan_to_num(-1))
    assert model.encode_clips("audio", []) == []


@torch.no_grad()
def test_every_token_says_what_it_stands_for(model):
    """Change one corner of one frame: in the first layers' sum the tokens there change the most."""
    dark = clip(4)
    bright = replace(dark, pixels=dark.pixels.clone())
    bright.pixels[2, :, 25:, 35:] = 255
    before, after = model.encode("video", dark), model.encode("video", bright)
    change = (after.tokens - before.tokens).norm(dim=1)[~before.times.isnan()]
    hot = change.topk(3).indices
    rows, cols = before.grid
    there = ~before.times.isnan()
    moments, cells = before.times[there][hot], before.cells[there][hot]
    assert all(abs(float(t) - 1.0) <= 0.26 for t in moments)  # frame 2 is at 1.0 s
    assert (cells >= torch.tensor([rows // 2, cols // 2])).all()


@torch.no_grad()
def test_all_senses_stand_in_one_prompt_at_their_spans(model):
    random_adapter(model, "audio")
    video = clip(4)
    seen = model.encode("video", video)
    heard = model.encode("audio", model.modality("audio").render(sound(), video.times))
    prompt = model.backbone.compose(QUESTION, [seen, heard])
    for stream in (seen, heard):
        assert torch.equal(prompt.inputs_embeds[0, prompt.spans[stream.sense]], stream.tokens)
    assert prompt.spans["video"].max() < prompt.spans["audio"].min()
    alone = model.backbone.compose(QUESTION, [seen])
    before = int(alone.spans["video"][-1]) + 1
    assert torch.equal(prompt.inputs_embeds[:, :before], alone.inputs_embeds[:, :before])


def test_a_message_with_the_placeholder_is_refused(model):
    name = model.backbone.tokenizer.convert_ids_to_tokens(model.backbone.placeholder)
    with pytest.raises(BackboneError, match="must not be written"):
        model.backbone.compose([{"role": "user", "content": f"what is {name} ?"}])


# --- guidance and alignment -----------------------------------------------------------------------


def vision_inputs(backbone, pixels):
    """Query, key and value of every layer as the plain modules give them: hooks on the projections."""
    kept, hooks = {}, []

    def keep(name):
        return lambda m, i, out: kept.setdefault(name, out)

    for layer, module in enumerate(backbone.vision_attention_modules()):
        for part in ("qkv", "q_proj", "k_proj", "v_proj"):
            if hasattr(module, part):
                hooks.append(getattr(module, part).register_forward_hook(keep((layer, part))))
    tokens, layout = backbone.encode(pixels)
    for hook in hooks:
        hook.remove()
    return tokens[layout.frame >= 0], kept


def windowed(backbone, layer, tensor):
    """(frames, H, n, d) -> (frames * W, H, n / W, d)."""
    windows = backbone.windows(layer)
    return tensor.unflatten(2, (windows, -1)).transpose(1, 2).flatten(0, 1)


def slow_attention(query, key, value):
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def reference_videos(n=3):
    return [Example(f"v{i}", {"video": clip(4, 20 + 8 * i, 40, seed=i)}) for i in range(n)]


@pytest.fixture
def guidance(model):
    return guide(model, reference_videos(), GuideConfig(frames=2, batch_size=4), progress=False)


@torch.no_grad()
def test_guidance_equals_a_slow_reference(model, guidance):
    backbone = model.backbone
    frames = [backbone.pixels(e.media["video"].at(sample_times(2.0, 2)).pixels) for e in reference_videos()]
    pixels = torch.cat(frames)
    tokens, kept = vision_inputs(backbone, pixels)
    assert guidance.frames == len(pixels) // families.of(backbone).frames_per_token
    for layer in range(len(guidance.keys)):
        _, key, value = families.of(backbone).split_heads(backbone, kept, layer, pixels)
        for mean, whole in ((guidance.keys[layer], key), (guidance.values[layer], value)):
            by_hand = windowed(backbone, layer, whole.double().mean(0, keepdim=True))
            torch.testing.assert_close(mean.double(), by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guidance.token_mean, tokens.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guidance.token_var, tokens.var(0, correction=0), rtol=1e-3, atol=1e-5)


def with_vision_lora(model):
    model.add_adapter(Adapter("audio", "audio"))
    torch.manual_seed(0)
    lora = model.add_lora("audio", "vision", LoraSettings(2, 4.0, 0.0))
    weights = model.lora.tensors(lora)
    for name, weight in weights.items():
        if ".lora_B." in name:
            weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return weights


def gradients(weights, loss):
    for weight in weights.values():
        weight.grad = None
    loss.backward()
    return {name: weight.grad.clone() for name, weight in weights.items()}


@pytest.mark.parametrize("subset", ["even", "all"])
def test_alignment_and_its_gradients_equal_a_slow_reference(model, guidance, subset):
    weights, config, backbone = (
        with_vision_lora(model),
        AlignConfig(query_subset=subset, beta=0.3),
        model.backbone,
    )
    pixels = backbone.pixels(clip(4, 20, 30, seed=9).pixels)
    with model.sensing("audio", train=True):
        tokens, kept = vision_inputs(backbone, pixels)
        layers = []
        for layer, module in enumerate(backbone.vision_attention_modules()):
            parts = families.of(backbone).split_heads(backbone, kept, layer, pixels)
            query, key, value = (windowed(backbone, layer, part) for part in parts)
            repeat = len(query) // len(guidance.keys[layer])
            keys, values = (m[layer].repeat(repeat, 1, 1, 1) for m in (guidance.keys, guidance.values))
            project = module.get_submodule(backbone.output_projection)
            difference = project(slow_attention(query, key, value)) - project(
                slow_attention(query, keys, values)
            )
            if subset == "even":
                difference = difference[:, families.of(backbone).even_queries(backbone, layer)]
            layers.append(difference.abs().mean())
        mean, var = tokens.mean(0), (tokens - tokens.mean(0)).square().mean(0)
        statistics = (mean - guidance.token_mean).norm() + (var - guidance.token_var).norm()
        slow = sum(layers) / len(layers) + 0.3 * statistics
        expected = gradients(weights, slow)
    for checkpointing in ("off", "non-reentrant"):
        loss = AlignmentLoss(backbone, guidance, replace(config, checkpointing=checkpointing))
        with (
            loss.listening(),
            checkpointed(backbone.model, checkpointing),
            model.sensing("audio", train=True),
        ):
            parts = loss(pixels)
            found = gradients(weights, parts["loss"])
        torch.testing.assert_close(parts["loss"], slow, rtol=1e-4, atol=1e-6)
        scale = max(float(g.abs().max()) for g in expected.values())
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-5 * scale, msg=name)
    with pytest.raises(DataError, match="reentrant"):
        AlignConfig(checkpointing="reentrant")


@torch.no_grad()
def test_recording_changes_no_bit(model):
    pixels = model.backbone.video_pixels(clip(5).pixels)
    expected, calls = model.backbone.encode(pixels)[0], []
    with recording(model.backbone, vision=lambda layer, *tensors: calls.append(layer)):
        assert torch.equal(model.backbone.encode(pixels)[0], expected)
    assert sorted(set(calls)) == list(range(len(model.backbone.vision_attention_modules())))


# --- tuning and chat ------------------------------------------------------------------------------


@pytest.mark.parametrize("conversation", [False, True])
@torch.no_grad()
def test_packed_questions_get_the_logits_of_a_chat_s_prompts(model, conversation):
    if conversation and not families.of(model.backbone).answers_as_in_history:  # see test_tuning
        name = model.backbone.tokenizer.convert_ids_to_tokens(model.backbone.marker)
        model.backbone.tokenizer.chat_template = IN_ORDER.replace("VIDEO", name)
    random_adapter(model, "audio")
    backbone, video = model.backbone, clip(4)
    frames = model.modality("audio").render(sound(), video.times)
    clips = [[model.encode("video", video), model.encode("audio", frames)], [model.encode("video", video)]]
    turns = [[Turn("hear ?", "bell"), Turn("see ?", "dots"), Turn("now ?", "x y")], [Turn("see ?", "dots")]]
    packed = Packer(backbone).pack(clips, turns, conversation)
    hidden = backbone.model.get_decoder()(
        **backbone.decoder_inputs(packed.ids, packed.embeds),
        attention_mask=packed.mask,
        position_ids=packed.positions,
    ).last_hidden_state
    logits, number, losses = backbone.model.lm_head(hidden), 0, []
    for row, asked in enumerate(turns):
        history = []
        for turn in asked:
            number += 1
            messages = [*(history if conversation else []), {"role": "user", "content": turn.question}]
            prompt = backbone.compose(messages, clips[row])
            ids = torch.tensor(backbone.answer_ids(turn.answer))
            full = backbone.model(**arguments(backbone, followed(backbone, prompt, ids))).logits[0]
            expected = full[prompt.input_ids.shape[1] - 1 : -1]
            mine = (packed.questions[row] == number) & (packed.labels[row] != IGNORE)
            assert packed.labels[row][mine].tolist() == ids.tolist()
            torch.testing.assert_close(logits[row][mine], expected, rtol=0, atol=2e-5)
            losses.append(F.cross_entropy(expected, ids, reduction="none"))
            history += [messages[-1], {"role": "assistant", "content": turn.answer}]
    torch.testing.assert_close(answer_loss(backbone, packed)[0], torch.cat(losses).mean())


def test_later_turns_reuse_the_cache_and_equal_a_full_prefill(model):
    random_adapter(model, "audio")
    chat = model.chat(video=clip(), audio=sound(), frames=6)
    for question in ("what is it ?", "and now ?", "why ?"):
        with torch.no_grad(), model.using("audio"):
            chat.encode()
            messages = [*chat.history, {"role": "user", "content": question}]
            prompt = model.backbone.compose(messages, list(chat.streams.values()))
            full = model.generate(prompt, max_new_tokens=8)
        before = chat.model.kv_caches.get(chat, ("video", "audio"))
        answer = chat.ask(question, max_new_tokens=8)
        assert answer == model.backbone.tokenizer.decode(full[0], skip_special_tokens=True).strip()
        kept = chat.model.kv_caches.get(chat, ("video", "audio"))
        assert kept.labels[-len(full[0]) + 1 :] == full[0][:-1].tolist()
        if before is not None:  # it was continued: of the first token behind the media the row is the old one
            assert kept.baseline is before.baseline


def test_evidence_has_a_map_for_every_frame_of_every_sense(model):
    random_adapter(model, "audio")
    chat = model.chat(video=clip(7), audio=sound(3.5), frames=5)
    chat.ask("what is it ?", max_new_tokens=6)
    assert sum(chat.evidence.share().values()) == pytest.approx(1.0)
    for sense, stream in chat.streams.items():
        times, values = chat.evidence.attribution(None, "attention").curve(sense)
        assert len(times) == len(values) == stream.steps and (values >= 0).all()
        maps = chat.evidence.attribution(None, "attention").frame_maps(sense)
        assert maps.shape == (5, *stream.grid)
    assert 0 < chat.evidence.share()["audio"] < 1
    assert isinstance(chat.occlusion("audio"), float)


# --- positions in time and space ------------------------------------------------------------------


@pytest.fixture
def qwen(tmp_path):
    return lynx.load(checkpoints.qwen2_5_vl(tmp_path))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    ("frames", "size", "fps"), [(5, (50, 70), 2), (8, (30, 20), 1), (2, (16, 16), 4), (12, (20, 60), 8)]
)
@torch.no_grad()
def test_positions_without_modality_tokens_are_stock_s(kind, tmp_path, frames, size, fps):
    qwen = lynx.load(checkpoints.FAMILIES[kind](tmp_path))
    video = clip(frames, *size)
    video = replace(video, times=torch.arange(frames).double() / fps, duration=frames / fps)
    inputs = stock_inputs(qwen.backbone, video, LONGER)
    expected, _ = qwen.backbone.model.model.get_rope_index(
        **{key: value for key, value in inputs.items() if key != "pixel_values_videos"}
    )  # fmt: skip
    prompt = qwen.backbone.compose(LONGER, [qwen.encode("video", video)])
    assert torch.equal(prompt.position_ids, expected)
    text = qwen.backbone.compose(LONGER)
    assert torch.equal(text.position_ids, torch.arange(text.input_ids.shape[1]).expand(3, 1, -1))


@torch.no_grad()
def test_parallel_senses_stand_where_each_would_alone(model):
    video, names = clip(6), ("audio", "other")
    for name in names:
        random_adapter(model, name, placement="parallel")
    seen = model.encode("video", video)
    heard = {name: model.encode(name, model.modality(name).render(sound(3.0), video.times)) for name in names}

    def places(*streams):
        prompt = model.backbone.compose(QUESTION, streams)
        at = {sense: prompt.position_ids[..., 0, span] for sense, span in prompt.spans.items()}
        behind = max(int(span[-1]) for span in prompt.spans.values()) + 1
        return at, prompt.position_ids[..., 0, behind:], prompt.spans

    together, text, _ = places(seen, *heard.values())
    for name, stream in heard.items():
        alone, text_alone, spans = places(seen, stream)
        assert torch.equal(together[name], alone[name]) and torch.equal(text, text_alone)
        marks = int(spans[name][0] - spans["video"][-1]) - 1
        taken = model.backbone.extent(seen, spans["video"] - spans["video"][0])
        behind_video = int(alone["video"].amin()) + taken
        assert int(alone[name].amin()) == behind_video + marks
    unseen, _, spans = places(*heard.values())
    marks = int(spans["other"][0] - spans["audio"][-1]) - 1
    assert torch.equal(unseen["audio"] + marks, unseen["other"])


@pytest.mark.parametrize("placement", ["continue", "share"])
@torch.no_grad()
def test_modality_tokens_go_on_behind_the_video_or_share_its_times(qwen, placement):
    random_adapter(qwen, "audio", placement=placement)
    video = clip(6)
    seen = qwen.encode("video", video)
    heard = qwen.encode("audio", qwen.modality("audio").render(sound(3.0), video.times))
    prompt = qwen.backbone.compose(QUESTION, [seen, heard])
    places = prompt.position_ids[:, 0]
    video_at, audio_at = (places[:, prompt.spans[sense]] for sense in ("video", "audio"))
    start = int(video_at.amin())
    assert torch.equal(video_at[0].unique(), audio_at[0].unique() - audio_at.amin() + start)  # one clock
    if placement == "share":
        assert audio_at.amin(1).tolist() == [start] * 3
    else:
        assert audio_at.amin(1).tolist() == [start + max(seen.grid)] * 3
    behind = int(prompt.spans["audio"][-1]) + 1
    text = places[:, behind:]
    assert (text[0] == text[1]).all() and (text[0] == text[2]).all() and (text[0].diff() == 1).all()
    assert int(text[0, 0]) > int(audio_at[1:].amax())


def test_a_placement_that_the_family_has_not_is_refused(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    with pytest.raises(lynx.AdapterError, match="share"):
        random_adapter(model, "audio", placement="share")


# --- the three stages -----------------------------------------------------------------------------


def test_an_adapter_is_trained_saved_and_loaded(model, folder, guidance, tmp_path):
    """Guidance, alignment, tuning; the adapter from its folder answers as the one that was trained."""
    examples = stages.clips(4)
    heard = [replace(each, media={"audio": each.media["audio"]}) for each in examples]
    short = {"steps": 2, "rank": 2, "alpha": 4, "batch_size": 2, "frames": 2, "lr": 1e-2}
    align(model, "audio", heard, guidance, AlignConfig(**short), tmp_path, progress=False)
    placement = model.backbone.placements[-1]
    config = TuneConfig(**short, placement=placement)
    talks = Sampling(conversation=0.5)
    report = tune(model, "audio", examples, config, tmp_path, sampling=talks, progress=False)
    assert report["without_gradient"] == [] and report["encoded"] == 4
    other = lynx.load(folder, adapters=[tmp_path])
    assert other.adapter("audio").placement == placement
    media = {"video": clip(), "audio": sound()}
    answers = [each.chat(**media, frames=4).ask("hear ?", max_new_tokens=8) for each in (model, other)]
    assert answers[0] == answers[1]
    with other.using():
        assert other.lora.on == ()


def test_a_tuning_for_a_placement_that_the_family_has_not_is_refused(tmp_path):
    model = lynx.load(checkpoints.internvl(tmp_path / "backbone"))
    random_adapter(model, "audio", parts=("vision",))
    with pytest.raises(lynx.AdapterError, match="can do continue"):
        tune(
            model, "audio", stages.clips(1), TuneConfig(placement="share", frames=2), tmp_path, progress=False
        )
