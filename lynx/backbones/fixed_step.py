"""A decoding step whose tensors never move, so that a GPU can replay it as one graph instead of launching it.

Stock `generate` keeps its loop: processors of scores, sampling, stopping and streaming are its own. While it
runs, the model's `forward` answers a call of one token by the fixed step, and any other call as ever. Keys
and values are read from the answer's own `DynamicCache` before the first such step, and what was added is
written back behind the last, so that a conversation keeps and cuts the same caches as without.

A step attends to all S places of its buffers, the later ones masked; S is a power of two, so that few lengths
of answers need a step of their own. On CUDA it is captured once for each S and each set of LoRAs; on a CPU
it runs as it is. (Nobody has run the part on CUDA yet.) A step is used once it has given what stock gives:
the first one after it was made is computed both ways.

Axis letters: L layers, Hq query heads, Hkv key heads, d width of a head, S places of the buffers.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from lynx.backbones.attention import RECORDER
from lynx.backbones.base import Backbone

logger = logging.getLogger(__name__)

SHORTEST = 256
"""The least number of places."""
PASSED = {"input_ids", "position_ids", "attention_mask", "cache", "use_cache", "logits_to_keep"}
PASSED |= {"return_dict"}
"""What stock `generate` gives a step of one token."""


class FixedLayer(StaticLayer):
    """Keys and values of one layer, in place; where the next ones go is a tensor that all layers share."""

    keys: Any
    values: Any

    def __init__(self, like: Any, places: int, position: Tensor) -> None:
        super().__init__(places)
        for name in ("keys", "values"):
            states: Tensor = getattr(like, name)  # (1, Hkv, s, d), s < S
            setattr(self, name, states.new_zeros(*states.shape[:2], places, states.shape[3]))
        self.cumulative_length, self.is_initialized = position, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add those of one token, (1, Hkv, 1, d); returns all places (1, Hkv, S, d)."""
        self.keys.index_copy_(2, self.cumulative_length, key_states)
        self.values.index_copy_(2, self.cumulative_length, value_states)
        return self.keys, self.values


class FixedStep:
    """The step of one model, for S places, under the LoRAs that were on when it was made."""

    def __init__(self, backbone: Backbone, like: DynamicCache, places: int, positions: Tensor) -> None:
        self.model = backbone.model
        self.modules = backbone.text_attention_modules()
        self.length = torch.zeros(1, dtype=torch.long, device=backbone.device)  # places that are filled
        self.layers = [FixedLayer(layer, places, self.length) for layer in like.layers]
        self.cache = Cache([*self.layers])
        self.ids = self.length.new_zeros(1, 1)
        self.positions = torch.zeros_like(positions)  # (1, 1), or (3, 1, 1)
        self.places = torch.arange(places, device=backbone.device)  # (S,)
        self.logits = self.queries = torch.empty(0)  # (1, 1, V); (L, 1, Hq, 1, d), where they are recorded
        self.scaling: dict[int, float | None] = {}  # by layer, where they are recorded
        self.graph: torch.cuda.CUDAGraph | None = None

    def read(self, cache: DynamicCache) -> None:
        """Take over the keys and values of a conversation."""
        layers: list[Any] = cache.layers
        for mine, theirs in zip(self.layers, layers, strict=True):
            mine.keys[:, :, : theirs.keys.shape[2]].copy_(theirs.keys)
            mine.values[:, :, : theirs.values.shape[2]].copy_(theirs.values)
        self.length.fill_(cache.get_seq_length())

    def write(self, cache: DynamicCache, count: int) -> None:
        """Give a conversation the keys and values of the last `count` steps, which it does not have yet."""
        new = slice(cache.get_seq_length(), cache.get_seq_length() + count)
        for number, mine in enumerate(self.layers):
            cache.update(mine.keys[:, :, new], mine.values[:, :, new], number)

    def run(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The logits (1, 1, V) behind one token, in a buffer. ids: (1, 1); positions: as in the prompt."""
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.compute()
        return self.logits

    def compute(self) -> None:
        """Run the stock model on the buffers."""
        seen = (self.places <= self.length).view(1, 1, 1, -1)  # (1, 1, 1, S)
        output = type(self.model).forward(
            self.model, input_ids=self.ids, attention_mask=seen, position_ids=self.positions,
            cache=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self.logits = output.logits
        self.length.add_(1)

    def record(self, layer: int, query: Tensor, scaling: float | None) -> None:
        """Keep a layer's query (1, Hq, 1, d) of this step."""
        if not len(self.queries):
            self.queries = query.new_empty(len(self.modules), *query.shape)
        self.queries[layer].copy_(query)
        self.scaling[layer] = scaling

    def capture(self) -> None:
        """Capture the step as a CUDA graph, which leaves the conversation as it was."""
        with torch.cuda.device(self.length.device):
            before, stream, graph = self.length.clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # what libraries allocate at their first call is not to be captured
                    self.compute()
                    self.length.copy_(before)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate
                self.compute()
            self.graph = graph


class Answer:
    """What stands in for the model's `forward` while one answer is generated."""

    def __init__(self, backbone: Backbone, cache: DynamicCache, longest: int) -> None:
        """longest: how many positions the prompt and the answer have at most."""
        self.backbone = backbone
        self.cache = cache
        self.places = max(SHORTEST, 1 << (longest - 1).bit_length())
        self.stock = functools.partial(type(backbone.model).forward, backbone.model)
        self.modules = backbone.text_attention_modules()
        self.recorders: list[Any] = [vars(module).get(RECORDER) for module in self.modules]
        self.step: FixedStep | None = None
        self.plain = False  # whether the steps of this answer are stock's
        self.count = 0
        self.queries: list[Tensor] = []  # (L, 1, Hq, 1, d) of each step

    def forward(self, *given: Any, **inputs: Any) -> Any:
        """The model's `forward`: a call of one token is a step."""
        ids = inputs.get("input_ids")
        if self.plain or ids is None or ids.shape != (1, 1) or inputs.get("cache") is not self.cache:
            return self.stock(*given, **inputs)
        if self.step is None:
            output = self._begin(inputs)
            if output is not None:
                return output
        return self._take(inputs)

    def _take(self, inputs: dict[str, Any]) -> CausalLMOutputWithPast:
        """A step by the fixed one."""
        assert self.step is not None
        logits = self.step.run(inputs["input_ids"], inputs["position_ids"])
        self.count += 1
        if any(self.recorders):
            self.queries.append(self.step.queries.clone())
        return CausalLMOutputWithPast(logits=logits, cache=self.cache)

    def _begin(self, inputs: dict[str, Any]) -> Any:
        """Find the fixed step. Where there is none it is made, and for this once stock's output returned."""
        odd = {name for name, value in inputs.items() if value is not None} - PASSED
        odd |= {type(layer).__name__ for layer in self.cache.layers if type(layer) is not DynamicLayer}
        if odd:
            logger.warning("decoding without fixed steps, which do not take %s", ", ".join(sorted(odd)))
            self.plain = True
            return self.stock(**inputs)
        # The matrices of LoRAs are part of a captured step, so it belongs to the functions that hold them.
        key = self.places, any(self.recorders), lora_forwards(self.backbone)
        kept = self.backbone.steps
        output = None
        if key not in kept:
            made = self._make(inputs)
            output = self.stock(**inputs)
            if made and not _alike(made.logits, output.logits):
                logger.warning("decoding without fixed steps: they give other scores than stock's here")
                made = None
            kept[key] = made
        self.step = kept.get(key)
        self.plain = self.step is None
        if self.step is not None:
            self.step.read(self.cache)
            self._record_into(self.step)
        return self.stock(**inputs) if output is None and self.plain else output

    def _make(self, inputs: dict[str, Any]) -> FixedStep | None:
        """A new step that has been taken once; None where it could not be made."""
        try:
            step = FixedStep(self.backbone, self.cache, self.places, inputs["position_ids"])
            step.read(self.cache)
            self._record_into(step)
            if self.backbone.device.type == "cuda":
                step.capture()
            step.run(inputs["input_ids"], inputs["position_ids"])
        except RuntimeError as error:  # out of memory, or a kernel that cannot be captured
            logger.warning("decoding without fixed steps, which could not be made: %s", error)
            return None
        finally:
            self.restore_recorders()
        return step

    def _record_into(self, step: FixedStep) -> None:
        """Let a step record the modules that are recorded."""
        for layer, (module, recorder) in enumerate(zip(self.modules, self.recorders, strict=True)):
            if recorder:
                vars(module)[RECORDER] = functools.partial(_record, step, layer)

    def restore_recorders(self) -> None:
        """Let the modules be recorded as they were before."""
        for module, recorder in zip(self.modules, self.recorders, strict=True):
            if recorder:
                vars(module)[RECORDER] = recorder

    def finish(self) -> None:
        """Give the conversation's cache what was added, and the recorders what they would have seen."""
        if self.step is None or not self.count:
            return
        before = self.cache.get_seq_length()
        self.step.write(self.cache, self.count)
        layers: list[Any] = self.cache.layers
        for number, (layer, module, recorder) in enumerate(
            zip(layers, self.modules, self.recorders, strict=True)
        ):
            for length, queries in enumerate(self.queries, before + 1):
                seen = layer.keys[:, :, :length], layer.values[:, :, :length]
                output = queries.new_empty(0)  # not kept: rows do without
                recorder(module, queries[number], *seen, output, scaling=self.step.scaling[number])


def lora_forwards(backbone: Backbone) -> tuple[Any, ...]:
    """What each module of the LLM computes in place of its own `forward`: None where no LoRA is on."""
    decoder: Any = backbone.model.get_decoder()
    return tuple(vars(module).get("forward") for module in decoder.modules())


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether scores agree in half of the digits of their precision."""
    worst = (found - expected).abs().max() / expected.abs().max()
    return float(worst) <= torch.finfo(expected.dtype).eps ** 0.5


def _record(
    step: FixedStep, layer: int, module: nn.Module, query: Tensor, *others: Tensor, scaling: float | None
) -> None:
    step.record(layer, query, scaling)


@contextmanager
def fixed_steps(backbone: Backbone, cache: DynamicCache, longest: int) -> Iterator[None]:
    """Inside the `with` the model decodes one answer of batch size 1 into `cache` by fixed steps.

    longest: how many positions the prompt and the answer have at most. Every position of the prompt is seen.
    """
    answer = Answer(backbone, cache, longest)

    @functools.wraps(type(backbone.model).forward)  # whose signature `generate` reads
    def forward(*given: Any, **inputs: Any) -> Any:
        return answer.forward(*given, **inputs)

    vars(backbone.model)["forward"] = forward
    try:
        yield
    finally:
        del vars(backbone.model)["forward"]
        answer.restore_recorders()
    answer.finish()
