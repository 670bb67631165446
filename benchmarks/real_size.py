"""The true architecture of a catalog model, with random weights, through all that lynx does with it.

    python -m benchmarks.real_size [--backbone llava-onevision-0.5b] [--precision fp32] [--frames 4]
    python -m benchmarks.real_size --backbone smolvlm2-256m --precision bf16 --frames 8 --no-training

Load, a chat about the video alone, guidance, one alignment step, one tuning step, a chat of two turns with a
sense and its evidence: seconds of each stage, of the wall and of all threads, and its peak of memory beside
what `lynx estimate` says of the chats. Then stock transformers with the same weights and the same clip: its
first answer, whether it says the same, and decoding in turn with lynx (stock; adapter off; on; none loaded).
Decoding is set beside the limit of the memory's bandwidth: every token reads all of the LLM's weights once.
The checkpoint is made once, in `.cache/benchmarks`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks import CACHE, interleaved, report, seconds
from lynx.backbones.memory import peak_bytes, used_bytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="llava-onevision-0.5b", help="a row of the catalog")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "int8", "nf4"])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens of an answer")
    parser.add_argument("--checkpointing", default="off", choices=["off", "non-reentrant"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of decoding, of which the median is taken")
    parser.add_argument("--video", help="a clip; by default one of the miniature world")
    parser.add_argument("--no-training", action="store_true", help="a random adapter in place of the stages")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = checkpoint(options.backbone)
    warm_up()
    figures = Figures()
    run(figures, source, options)
    report("real_size", **vars(options), device=device_name(), stages=figures.rows, **figures.more)


def warm_up() -> None:
    """An answer of the embedded backbone, so that memory and seconds of libraries are not a stage's."""
    import lynx
    from lynx.datasets.sources import open_data

    (example,) = open_data("world", n=1, senses=("video",))
    model = lynx.load()
    model.chat(frames=2, **example.media).ask("what do you see ?", max_new_tokens=2)


class Figures:
    """Seconds and peak memory, stage by stage."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.more: dict[str, Any] = {}
        self._before = used_bytes()  # of the interpreter and its libraries

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is inside."""
        start, spent = time.perf_counter(), time.process_time()
        with peak_bytes() as peak:
            yield
        self.rows[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - spent, 2),
            "peak_gb": round((peak[0] - self._before) / 1e9, 3),
        }


def device_name() -> str:
    """The accelerator, or the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def checkpoint(name: str) -> Path:
    """A folder with random weights in bf16 of the model's true architecture."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from lynx.backbones import CATALOG

    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # where small checkpoints are made
    import families

    row = CATALOG[name]
    folder = CACHE / name
    if (folder / "preprocessor_config.json").exists():
        return folder
    family = families.FAMILIES[row.family]
    words = family.tokenizer(size=row.geometry["text_config"]["vocab_size"])
    config, small = AutoConfig.for_model(row.family, **row.geometry), family.model(words, tied=False).config
    for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if hasattr(small, key):
            setattr(config, key, getattr(small, key))
    config.text_config.eos_token_id, config.text_config.bos_token_id = words.eos_token_id, None
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    preprocessor = family.true_preprocessor(row)
    return families.base.write(folder, model, words, family.template, preprocessor, std=None)


def run(figures: Figures, source: Path, options: argparse.Namespace) -> None:
    """Every stage once."""
    import lynx
    from lynx.backbones.estimate import estimate
    from lynx.datasets.sources import open_data

    precision, frames, tokens = options.precision, options.frames, options.tokens
    with figures.stage("load"):
        model = lynx.load(source, precision=precision)
    media = open_data("world", n=1, senses=("video", "audio"))[0].media
    video = options.video or media["video"]
    alone = model.chat(frames=frames, video=video)
    with figures.stage("encode"):
        alone.encode()
    figures.more["size"] = size = model.modality("video").size(video)
    model.drop_kept(in_use=0)
    alone = model.chat(frames=frames, video=video)
    with figures.stage("first_answer"):
        alone.ask("what do you see ?", max_new_tokens=tokens)
    known = {"frames": frames, "precision": precision, "size": size}
    figures.more["estimated_gb"] = round(estimate(source, **known).total / 1e9, 3)
    if options.no_training:
        random_adapter(model)
    else:
        train(figures, model, options)
    chat = model.chat(frames=frames, video=video, audio=media["audio"])
    with figures.stage("first_answer_with_sound"):
        chat.ask("what sound do you hear ?", max_new_tokens=tokens)
    with figures.stage("second_answer"):
        chat.ask("and what do you see ?", max_new_tokens=tokens)
    with figures.stage("evidence"):
        figures.more["share"] = {k: round(v, 4) for k, v in chat.evidence.share().items()}
    wanted = estimate(source, senses=("audio",), **known)
    figures.more["estimated_gb_with_sound"] = round(wanted.total / 1e9, 3)
    figures.more["tokens_a_sense"] = dict(chat.plan.tokens)
    beside_stock(figures, model, alone, options)


def random_adapter(model: Any) -> None:
    """A sense whose LoRAs of rank 64 are as they are before training."""
    from lynx.adapters.format import Adapter
    from lynx.config import LoraSettings

    model.add_adapter(Adapter("audio", "audio"))
    for part in ("vision", "llm"):
        model.add_lora("audio", part, LoraSettings(64, 64.0, 0.0))


def train(figures: Figures, model: Any, options: argparse.Namespace) -> None:
    """Guidance, and a step of each of the other stages: the model then has the adapter."""
    from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
    from lynx.datasets.sources import open_data
    from lynx.training.alignment import align
    from lynx.training.guidance import guide
    from lynx.training.tuning import tune

    out, frames = CACHE / "real_size", options.frames
    short = {"frames": frames, "steps": 1, "save_every": 0, "resume": False}
    short["checkpointing"] = options.checkpointing
    clips = {senses: open_data("world", n=1, senses=senses) for senses in (("video",), ("audio",))}
    with figures.stage("guidance"):
        guidance = guide(model, clips["video",], GuideConfig(frames=frames), progress=False)
    with figures.stage("alignment_step"):
        config = AlignConfig(batch_size=frames, **short)
        align(model, "audio", clips["audio",], guidance, config, out, progress=False)
    with figures.stage("tuning_step"):
        both = open_data("world", n=1, senses=("video", "audio"))
        few = Sampling(questions=4)
        tune(model, "audio", both, TuneConfig(batch_size=1, **short), out, sampling=few, progress=False)


@torch.no_grad()
def beside_stock(figures: Figures, model: Any, chat: Any, options: argparse.Namespace) -> None:
    """Stock transformers' first answer, and decoding in turn with lynx; unloads the adapter."""
    import families
    from transformers import AutoModelForImageTextToText

    backbone, clip, messages = model.backbone, chat.media["video"], chat.history[:-1]
    more: dict[str, Any] = {"dtype": backbone.dtype, "device_map": {"": backbone.device}}
    if (quantized := getattr(backbone.model.config, "quantization_config", None)) is not None:
        more["quantization_config"] = quantized
    stock = AutoModelForImageTextToText.from_pretrained(backbone.source, **more).eval()
    with figures.stage("stock_first_answer"):
        frames = model.modality("video").render(clip, chat.plan.times)
        inputs = families.of(backbone).stock_inputs(backbone, frames, messages)
        said = stock.generate(**inputs, max_new_tokens=options.tokens, do_sample=False)
    prompt = backbone.compose(messages, [chat.streams["video"]])
    length, ours = prompt.input_ids.shape[1], chat.evidence.answered.ids.to(said.device)
    figures.more["prompt_tokens"] = length
    figures.more["prompt_and_answer_are_stock_s"] = bool(
        torch.equal(said, torch.cat([prompt.input_ids[0], ours])[None])
    )

    for each in (stock, backbone.model):
        each.generation_config.eos_token_id = None  # all are to say as many tokens

    def plainly(cache: DynamicCache, max_new_tokens: int) -> Any:
        return stock.generate(
            **backbone.inputs(prompt.input_ids, prompt.inputs_embeds, cache.get_seq_length()),
            attention_mask=prompt.attention_mask, position_ids=prompt.position_ids, cache=cache,
            do_sample=False, max_new_tokens=max_new_tokens,
        )  # fmt: skip

    plain = decoding(plainly, backbone, length, options.tokens)

    def beside(*senses: str) -> dict[str, Any]:
        with model.using(*senses):
            own = decoding(partial(model.generate, prompt), backbone, length, options.tokens)
            return interleaved(plain, own, options.rounds)

    rates = {"adapter on": beside("audio"), "adapter off": beside()}
    for name in list(model.adapters):
        model.unload_adapter(name)
    rates["no adapter"] = beside()
    wall = seconds(decoding(partial(model.generate, prompt), backbone, length, options.tokens))
    figures.more["decoding_beside_stock"] = rates
    figures.more |= share_of_bandwidth(backbone, options.tokens / wall)


def decoding(
    generate: Callable[..., object], backbone: Any, length: int, tokens: int
) -> Callable[[], object]:
    """A call that says so many tokens from a cache of the prompt of that length, but for its last token."""
    cache = DynamicCache(config=backbone.model.config.get_text_config())
    generate(cache=cache, max_new_tokens=1)

    def decode() -> None:
        cache.crop(length - 1 - cache.get_seq_length())  # below 0: how many are removed
        generate(cache=cache, max_new_tokens=tokens)

    return decode


def share_of_bandwidth(backbone: Any, rate: float) -> dict[str, float]:
    """The rate in tokens a second without an adapter, as a share of what reading the LLM's weights allows."""
    from lynx.evaluation.verify import bandwidth

    embedding = backbone.model.get_input_embeddings().weight
    head = backbone.model.get_output_embeddings().weight
    # the embedding is looked up, not read through; where it is tied to the head, the head is
    weights = [w for w in backbone.model.get_decoder().parameters() if w is not embedding]
    size = sum(weight.nbytes for weight in weights) + head.nbytes
    limit = bandwidth(embedding.device)
    return {
        "llm_gb": round(size / 1e9, 3),
        "tokens_a_second": round(rate, 2),
        "bandwidth_gb_s": round(limit / 1e9, 1),
        "share_of_bandwidth_limit": round(rate * size / limit, 3),
    }


if __name__ == "__main__":
    main()
