"""Whether a backbone that was loaded keeps lynx's promises on this machine, in about a minute.

The reference is the loaded model itself, called as transformers calls it: pixels and ids in its own forward,
with its own attention. So the weights are in memory once, and a difference is lynx's.
"""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lynx
from lynx.adapters.format import Adapter
from lynx.adapters.lora import count_parameters
from lynx.backbones import CATALOG
from lynx.backbones.attention import stock
from lynx.backbones.decoding import generate
from lynx.backbones.estimate import estimate
from lynx.backbones.loading import stock_processor
from lynx.backbones.memory import peak_bytes, used_bytes
from lynx.config import LoraSettings
from lynx.errors import LynxError
from lynx.model import Lynx
from lynx.session import Session
from lynx.types import VIDEO, Frames, Message, Stream

OK, FAILED, SKIPPED, MEASURED = "ok", "FAILED", "not checked", "measured"
PACKAGES = ("lynx", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
DESCRIBE, AND_THEN = "Describe the video.", "What happens at the end?"
TOKENS = 16
"""Of an answer that is compared with stock's."""
FRAMES = 8
"""Of the clip, at most."""
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""By how much the logits of a cached turn may differ from those of a full reading, in their standard
deviations: the same products in another order."""
MEMORY = 0.15
"""By how much of the estimate the peak may exceed it on a GPU, where nothing else of the process counts."""


@dataclass(frozen=True)
class Check:
    """One promise: its verdict (OK, FAILED, SKIPPED, MEASURED) and what was seen, in words."""

    check: str
    verdict: str
    seen: str


@dataclass(frozen=True)
class Report:
    """What was checked, and where."""

    backbone: str
    environment: dict[str, str]
    checks: tuple[Check, ...]
    seconds: float

    @property
    def failed(self) -> list[str]:
        """The checks that failed."""
        return [check.check for check in self.checks if check.verdict == FAILED]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "failed": self.failed}


def verify(
    source: str | Path,
    adapters: Sequence[str | Path] = (),
    video: str | Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    progress: Callable[[str], object] = lambda name: None,
) -> Report:
    """Load a backbone and check it.

    adapters: that are switched on and off; without any, a random one. video: a clip; one is drawn where not
    given. progress: called with each check's name before it begins.
    Raises: LynxError: the backbone or the clip cannot be read; an adapter that cannot is a check that fails.
    """
    begin, before = time.perf_counter(), used_bytes()
    with peak_bytes() as peak:
        model = Lynx(lynx.backbones.load_backbone(source, precision, device))
        run = _Run(model, str(source), video if video is not None else drawn_clip(), precision, device)
        checks = _all_of(run.checks(), progress)
    # Behind the peak: the estimate is without adapters, and the bandwidth is measured with a gigabyte.
    checks += _all_of({**run.switches(adapters), "decoding": run.speed}, progress)
    checks.append(Check("memory", *run.memory(peak[0] - before)))
    environment = {name: _version(name) for name in PACKAGES} | {
        "python": platform.python_version(), "system": platform.platform(terse=True),
        "device": run.device_name, "precision": run.precision,
    }  # fmt: skip
    return Report(str(source), environment, tuple(checks), round(time.perf_counter() - begin, 1))


def drawn_clip(frames: int = FRAMES, height: int = 360, width: int = 640) -> Frames:
    """A red square that crosses a gray ramp in four seconds."""
    ramp = torch.linspace(30, 220, width).expand(3, height, width).to(torch.uint8)
    pixels = ramp.repeat(frames, 1, 1, 1)
    side, red = height // 4, torch.tensor([210, 30, 30], dtype=torch.uint8)
    for number, frame in enumerate(pixels):
        left = number * (width - side) // max(1, frames - 1)
        frame[:, side : 2 * side, left : left + side] = red.view(3, 1, 1)
    return Frames(pixels, (torch.arange(frames).double() + 0.5) * 4 / frames, 4.0)


class _Run:
    """The checks of one model; each returns its verdict and what was seen."""

    def __init__(self, model: Lynx, source: str, video: Any, precision: str, device: str) -> None:
        self.model, self.backbone, self.source = model, model.backbone, source
        self.asked, self.video = (precision, device), video
        self.chat = self._session()
        self.times = self.chat.plan.times
        self.stream: Stream = self.chat.encode()[VIDEO]
        self.frames = model.modality(VIDEO).render(video, self.times)
        self.pixels = self.backbone.video_pixels(self.frames.pixels)

    @property
    def device_name(self) -> str:
        """The accelerator, or the CPU."""
        device = self.backbone.device
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)} ({device})"
        return f"{device}: {platform.machine()}, {torch.get_num_threads()} threads"

    @property
    def precision(self) -> str:
        """What it was loaded in."""
        config = getattr(self.backbone.model.config, "quantization_config", None)
        if config is not None:
            return "int8" if config.load_in_8bit else "nf4"
        return "fp32" if self.backbone.dtype == torch.float32 else "bf16"

    def checks(self) -> dict[str, Callable[[], tuple[str, str]]]:
        """Those of the backbone alone, by name."""
        return {
            "weights": self.weights,
            "LoRA targets": self.targets,
            "stock processor": self.processor,
            "no adapter: a prompt is read": self.prefill,
            "no adapter: an answer": self.answer,
            "no adapter: a second turn": self.second_turn,
            "attention rows": self.rows,
            DESCRIBE: self.says,
        }

    def switches(self, adapters: Sequence[str | Path]) -> dict[str, Callable[[], tuple[str, str]]]:
        """Those of adapters, by name; of a random one where there are none."""
        if not adapters:
            return {"an adapter on and off": partial(self.adapter, None)}
        return {f"adapter {each} on and off": partial(self.adapter, each) for each in adapters}

    def weights(self) -> tuple[str, str]:
        """None missing, which loading has checked, and none that has no place."""
        count = len(self.backbone.model.state_dict())
        if extra := self.backbone.unexpected:
            return FAILED, f"{count} tensors; {len(extra)} in the files have no place, such as {extra[0]}"
        return OK, f"{count} tensors, none missing, none without a place"

    def targets(self) -> tuple[str, str]:
        """The linears that LoRAs are put on, beside those of the catalog's geometry."""
        found = {part: self.backbone.lora_shapes(part, 64) for part in ("vision", "llm")}
        sizes = {part: sum(a * b for a, b in shapes.values()) for part, shapes in found.items()}
        told = ", ".join(
            f"{part} {len(shapes) // 2} linears, {sizes[part] / 1e6:.3f} M at rank 64"
            for part, shapes in found.items()
        )
        if any(not shapes for shapes in found.values()):
            return FAILED, told
        if self.source.partition("@")[0] not in CATALOG:
            return OK, f"{told} (no row of the catalog to compare with)"
        expected = count_parameters(self.source, 64)
        same = all(sizes[part] == expected[part] for part in found)
        return (OK, f"{told}, as in the catalog") if same else (FAILED, f"{told}; the catalog: {expected}")

    def processor(self) -> tuple[str, str]:
        """Our pixels and ids beside those of the checkpoint's own processor, where that can be loaded."""
        try:
            processor = stock_processor(self.backbone)
            if not hasattr(processor, "video_processor"):
                return SKIPPED, f"{type(processor).__name__} is all that is there (no torchvision?)"
            content = [{"type": "video"}, {"type": "text", "text": DESCRIBE}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            theirs = processor(
                text=[text], videos=[self.frames.pixels.numpy()], return_tensors="pt",
                do_sample_frames=False, video_metadata=[self.metadata()],
            )  # fmt: skip
        except Exception as error:  # whatever another library says of a machine that it does not fit
            return SKIPPED, f"the processor cannot be used here: {_line(error)}"
        ours = self._stock_inputs(self._asking(DESCRIBE))
        shared = [name for name in ours if name.startswith("pixel_values") and name in theirs]
        same = [torch.equal(theirs[name].to(ours[name]), ours[name]) for name in shared]
        prompt = self.backbone.compose(self._asking(DESCRIBE), [self.stream])
        ids = torch.equal(theirs["input_ids"].cpu(), prompt.input_ids.cpu())
        told = f"pixels {'equal' if all(same) and same else 'differ'}, ids {'equal' if ids else 'differ'}"
        return OK if ids and same and all(same) else FAILED, told

    def metadata(self) -> dict[str, Any]:
        """What a stock processor is told of the clip: at a frame a second, a frame's number is its second."""
        times = self.frames.times.tolist()
        known = {"fps": 1.0, "total_num_frames": len(times), "frames_indices": times}
        return {**known, "duration": self.frames.duration}

    @torch.no_grad()
    def prefill(self) -> tuple[str, str]:
        """Logits of the prompt's last positions."""
        ours, theirs = self._logits(), self._stock_logits(self._asking(DESCRIBE))
        if not theirs.isfinite().all():
            return FAILED, "stock's own logits are not finite: the weights are damaged, or overflow here"
        if torch.equal(ours, theirs):
            return OK, f"the logits of the last {ours.shape[1]} positions are stock's, bit for bit"
        return FAILED, f"logits differ by up to {float((ours - theirs).abs().max()):.3g}"

    @torch.no_grad()
    def answer(self) -> tuple[str, str]:
        """Greedy tokens, from pixels by stock `generate`, from tokens by ours."""
        messages = self._asking(DESCRIBE)
        prompt = self.backbone.compose(messages, [self.stream])
        with self._endless():
            ours = generate(self.backbone, prompt, max_new_tokens=TOKENS)[0]
            return self._compared(ours, self._stock_answer(messages))

    @torch.no_grad()
    def second_turn(self) -> tuple[str, str]:
        """A second answer, which continues a KV cache, beside stock's reading of everything."""
        chat = self._session()
        chat.ask(DESCRIBE, max_new_tokens=TOKENS)
        messages = [*chat.history, *self._asking(AND_THEN)]
        chat.ask(AND_THEN, max_new_tokens=TOKENS)
        assert chat.evidence is not None and chat.evidence.answered is not None
        verdict, told = self._compared(chat.evidence.answered.ids, self._stock_answer(messages))
        if verdict == OK:
            return OK, f"{told}; it continued a KV cache"
        gap = self._gap(messages)
        if gap <= ROUNDING[self.backbone.dtype]:
            return OK, f"{told}: the two best candidates are {gap:.2g} standard deviations apart, a rounding"
        return FAILED, told

    @torch.no_grad()
    def adapter(self, source: str | Path | None) -> tuple[str, str]:
        """On it changes something; off, and gone, the logits are what they were."""
        before = self._logits()
        if source is None:
            name = "random"
            self.model.add_adapter(Adapter(name, "audio"))
            for part in ("vision", "llm"):
                lora = self.model.add_lora(name, part, LoraSettings(4, 8.0, 0.0))
                for weight in self.model.lora.tensors(lora).values():
                    weight.data.normal_(std=0.05)
        else:
            name = self.model.load_adapter(source).name
        try:
            with self.model.using(name):
                on = self._logits()
            off = self._logits()
        finally:
            self.model.unload_adapter(name)
        gone, what = self._logits(), "a random adapter" if source is None else "the adapter"
        if not torch.equal(before, off) or not torch.equal(before, gone):
            return FAILED, f"{what} leaves a trace: the logits are no longer those from before"
        if torch.equal(before, on):
            return FAILED, f"{what} changes nothing while it is on"
        return OK, f"{what} changes the logits; off and unloaded they are those from before, bit for bit"

    def rows(self) -> tuple[str, str]:
        """Every attention row that was recorded sums to 1."""
        if self.chat.evidence is None:
            self.chat.ask(DESCRIBE, max_new_tokens=TOKENS)
        assert self.chat.evidence is not None
        sums = self.chat.evidence.attention.rows.sum(1)
        worst = float((sums - 1).abs().max()) if len(sums) else 0.0
        return OK if worst < 1e-4 else FAILED, f"{len(sums)} rows sum to 1 within {worst:.1g}"

    @torch.no_grad()
    def speed(self) -> tuple[str, str]:
        """Tokens a second, and how much of what reading the LLM's weights allows that is."""
        prompt = self.backbone.compose(self._asking(DESCRIBE), [self.stream])

        def seconds(count: int) -> float:
            start = time.perf_counter()
            generate(self.backbone, prompt, max_new_tokens=count)
            return time.perf_counter() - start

        with self._endless():
            seconds(1)  # what is done once
            rate = 2 * TOKENS / max(1e-9, seconds(2 * TOKENS + 1) - seconds(1))
        decoder: Any = self.backbone.model.get_decoder()
        embedding = self.backbone.model.get_input_embeddings().weight
        head: Any = self.backbone.model.get_output_embeddings()
        # the embedding is looked up, not read through; where it is tied to the head, the head is
        size = sum(w.nbytes for w in decoder.parameters() if w is not embedding) + head.weight.nbytes
        share = rate * size / bandwidth(self.backbone.device)
        return MEASURED, f"{rate:.1f} tokens a second, {share:.0%} of what the memory's bandwidth allows"

    def says(self) -> tuple[str, str]:
        """The answer to it, which people can judge."""
        chat = self._session()
        return MEASURED, repr(chat.ask(DESCRIBE, max_new_tokens=48))

    def memory(self, peak: int) -> tuple[str, str]:
        """The peak beside the estimate."""
        size = (int(self.frames.pixels.shape[-2]), int(self.frames.pixels.shape[-1]))
        precision, device = self.asked
        found = estimate(
            self.source, frames=len(self.frames), size=size, precision=precision, device=device
        )
        told = f"a peak of {peak / 1e9:.2f} GB, estimated {found.total / 1e9:.2f} GB"
        if self.backbone.device.type != "cuda":
            return MEASURED, f"{told} (of a CPU's process other things are part)"
        return OK if peak <= (1 + MEMORY) * found.total else FAILED, told

    # --- ours and stock's ---------------------------------------------------------------------------

    @contextmanager
    def _endless(self) -> Iterator[None]:
        """Inside, answers go on to their last token: every model says as many."""
        config: Any = self.backbone.model.generation_config
        ends, config.eos_token_id = config.eos_token_id, None
        try:
            yield
        finally:
            config.eos_token_id = ends

    def _session(self) -> Session:
        return self.model.chat(video=self.video, frames=min(FRAMES, self.backbone.default_frames))

    def _asking(self, question: str) -> list[Message]:
        return [{"role": "user", "content": question}]

    def _logits(self) -> Tensor:
        prompt = self.backbone.compose(self._asking(DESCRIBE), [self.stream])
        found = self.backbone.model(
            **self.backbone.inputs(prompt.input_ids, prompt.inputs_embeds),
            attention_mask=prompt.attention_mask, position_ids=prompt.position_ids, logits_to_keep=TOKENS,
        )  # fmt: skip
        return found.logits

    def _stock_inputs(self, messages: Sequence[Message]) -> dict[str, Tensor]:
        ids = self.backbone.compose(messages, [self.stream]).input_ids
        media = self.backbone.stock_inputs(self.pixels, self.stream, ids)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}

    def _stock_logits(self, messages: Sequence[Message]) -> Tensor:
        with stock(self.backbone.model):
            return self.backbone.model(**self._stock_inputs(messages), logits_to_keep=TOKENS).logits

    def _stock_answer(self, messages: Sequence[Message]) -> Tensor:
        inputs = self._stock_inputs(messages)
        with stock(self.backbone.model):
            ids: Tensor = self.backbone.model.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=self.backbone.pad_id
            )
        return ids[0, inputs["input_ids"].shape[1] :]

    def _compared(self, ours: Tensor, theirs: Tensor) -> tuple[str, str]:
        ours, theirs = ours.cpu(), theirs.cpu()
        same = len(ours) == len(theirs) and bool((ours == theirs).all())
        agree = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
        told = f"{len(theirs)} tokens are stock's" if same else f"token {agree + 1} is not stock's"
        return OK if same else FAILED, told

    def _gap(self, messages: Sequence[Message]) -> float:
        """Between the two best candidates for the first token, in standard deviations of the logits."""
        last = self._stock_logits(messages)[0, -1].float()
        best, second = last.topk(2).values
        return float((best - second) / last.std())


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads: the best of five products of 1 GB with a vector."""
    block, vector = torch.rand(250_000, 1000, device=device), torch.rand(1000, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        float((block @ vector)[0])
        best = max(best, block.nbytes / (time.perf_counter() - start))
    return best


def _all_of(
    checks: dict[str, Callable[[], tuple[str, str]]], progress: Callable[[str], object]
) -> list[Check]:
    """Their outcomes, in this order."""
    found = []
    for name, check in checks.items():
        progress(name)
        found.append(Check(name, *_tried(check)))
    return found


def _tried(check: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """The outcome; an error is a check that failed, so that the others still run."""
    try:
        return check()
    except LynxError as error:
        return FAILED, str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        return FAILED, _line(error)


def _line(error: Exception) -> str:
    """What an error of another library says, in a line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
