"""Everything that depends on internals of other libraries, so that their releases break this file alone.

Everything here uses a name, an attribute or a file layout that its library does not promise to keep. Each has
a canary in tests/test_compat.py that fails under its name. Libraries are imported inside the functions, so
importing this module costs nothing. Which modules a checkpoint's class has (`model.vision_tower...`) is not
here but in the file of its family, since a family is one file; their canary is here all the same.
"""

import copy
import logging
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser

    import torch
    from torch import Tensor, nn

# --- PEFT: its files and its layers --------------------------------------------------------------

PEFT_PREFIX = "base_model.model."
"""Prefix of module names in PEFT's files."""


def lora_layers(model: "nn.Module") -> dict[str, Any]:
    """The layers of a model that hold LoRAs, by their full names: PEFT's `LoraLayer`."""
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def stock_layer(layer: Any) -> Any:
    """The layer that PEFT's layer wraps."""
    return layer.get_base_layer()


def lora_names(layer: Any) -> Collection[str]:
    """The LoRAs that a layer holds."""
    return layer.lora_A.keys()


def lora_weights(layer: Any, name: str) -> dict[str, "Tensor"]:
    """The matrices of one LoRA in a layer, not copies: {"A": (r, in), "B": (out, r)}; {} without it."""
    if name not in layer.lora_A:
        return {}
    return {"A": layer.lora_A[name].weight, "B": layer.lora_B[name].weight}


def inject_lora(model: "nn.Module", injector: Any, name: str, config: Any) -> Any:
    """Wrap the linear layers that `config` targets, in place; returns the injector for the next LoRA.

    injector: None for the first LoRA of a model; the layers that hold the others have to stand in it. PEFT
    switches on what it adds: see `switch_lora`.
    """
    from peft import LoraModel

    if injector is None:
        return LoraModel(model, {name: config}, name)
    injector.peft_config[name] = config
    injector.inject_adapter(model, name)
    return injector


def eject_lora(model: "nn.Module", injector: Any, name: str) -> Any:
    """Take a LoRA out, also one that was added half-way only; returns the injector, or None after the last.

    A layer that has none left becomes the stock layer again, which PEFT does for all layers at once only.
    injector: None where adding the first LoRA failed before there was one.
    """
    for path, layer in lora_layers(model).items():
        if name in layer.r:  # noted before the matrices are made
            layer.delete_adapter(name)
        if not layer.lora_A:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, stock_layer(layer))
    if injector is not None:
        injector.peft_config.pop(name, None)
        if injector.peft_config:
            return injector
    vars(model).pop("peft_config", None)
    return None


def switch_lora(layer: Any, on: Sequence[str], trained: Sequence[str]) -> None:
    """Make exactly these LoRAs of a layer active, and give gradients and dropout to those of `trained`.

    PEFT's own switch gives gradients to all that are on, and leaves their dropout as it was.
    """
    layer.set_adapter(list(on), inference_mode=True)
    layer.set_requires_grad(list(trained), True)
    for name, dropout in layer.lora_dropout.items():
        dropout.train(name in trained)


def peft_layer(
    module: "nn.Module", name: str, config: Mapping[str, Any], tensors: "Mapping[str, Tensor]"
) -> "nn.Module":
    """A copy of a layer with a LoRA on it, made and filled by PEFT as `PeftModel.from_pretrained` does.

    name: the layer's full name. config: the content of `adapter_config.json`. tensors: {"A": (r, in), "B":
    (out, r)}. Raises whatever PEFT does, and ValueError where PEFT would ignore a tensor.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    read = LoraConfig.from_peft_type(**config)
    if not isinstance(read.target_modules, list | set):
        # a pattern is of full names, and those of a checkpoint begin as the model that it was trained in
        read.target_modules = {name}
    model: nn.Module = PeftModel(_alone(module, name), read)
    files = {f"{PEFT_PREFIX}{name}.lora_{matrix}.weight": tensor for matrix, tensor in tensors.items()}
    loaded: Any = set_peft_model_state_dict(model, files)
    if loaded.unexpected_keys:
        raise ValueError(f"it does not take {loaded.unexpected_keys[0]}")
    return model.get_submodule(f"{PEFT_PREFIX}{name}").eval()


def _alone(module: "nn.Module", name: str) -> "nn.Module":
    """A model of nothing but a copy of `module`, without its hooks, under its name."""
    from torch import nn

    root = parent = nn.Module()
    *levels, last = name.split(".")
    for level in levels:
        child = nn.Module()
        parent.add_module(level, child)
        parent = child
    alias = copy.copy(module)
    alias._forward_hooks = type(module._forward_hooks)()
    parent.add_module(last, copy.deepcopy(alias))
    return root
# --- argparse ------------------------------------------------------------------------------------


def accept_negative_axes(parser: "ArgumentParser") -> None:
    """Let "-y" be the value of an option, as "-1" is, and not an unknown option."""
    parser._negative_number_matcher = re.compile(r"(-\d+|-\d*\.\d+|-[xyz])$")


# --- transformers: attention, caches, streaming, checkpointing -----------------------------------


def stock_attention() -> Callable[..., tuple["Tensor", None]]:
    """The function behind `attn_implementation="sdpa"`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def register_attention(name: str, function: Callable[..., Any], masked: bool = True) -> None:
    """Make `function` the implementation `name`, with sdpa's masks.

    masked: False for towers that are never given a mask. Without a mask function of the same name
    transformers drops padding masks without a word.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, function)
    if masked:
        AttentionMaskInterface.register(name, sdpa_mask)


def use_attention(config: Any, name: str) -> None:
    """Switch a loaded model to a registered implementation.

    `from_pretrained` would look for a kernel of that name, and checks what the class says it can do.
    """
    config._attn_implementation = name


def qwen_video_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The sides that the stock processor of Qwen2.5-VL gives a frame: multiples of `factor` pixels."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
    return int(height), int(width)


def qwen3_video_size(
    frames: int, height: int, width: int, factor: int, least: int, most: int
) -> tuple[int, int]:
    """The same of Qwen3-VL, whose limits are of the pixels of all frames together, two or more."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    height, width = smart_resize(frames, height, width, factor=factor, min_pixels=least, max_pixels=most)
    return int(height), int(width)


def deepstack_output(tokens: "Tensor", features: Sequence["Tensor"]) -> Any:
    """The output of Qwen3-VL's tower over one clip, as the stock model takes it in place of pixels.

    tokens: (n, D); features: (n, D) for each of the LLM's first layers. No other class would do: its own
    methods are called.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    parts: Any = {"pooler_output": [tokens], "deepstack_features": [[layer] for layer in features]}
    return BaseModelOutputWithDeepstackFeatures(**parts)


def cache_beginning(cache: Any, dropped: int) -> Any:
    """A `DynamicCache` without its last `dropped` positions, while `cache` itself stays as long as it is.

    Layers are copied, tensors are not: transformers never writes into one but makes another, so a beginning
    is a view.
    """
    beginning = copy.copy(cache)
    beginning.layers = [copy.copy(layer) for layer in cache.layers]
    beginning.crop(-dropped)  # a negative length removes that many positions
    return beginning


def cache_tensors(cache: Any) -> list["Tensor"]:
    """All tensors of a transformers cache: keys, values and what a kind of layer keeps beside them."""
    import torch

    held = [value for layer in cache.layers for value in vars(layer).values()]
    return [value for value in held if isinstance(value, torch.Tensor)]


def end_stream(streamer: Any) -> None:
    """End the iteration over a `TextIteratorStreamer`, which `generate` leaves waiting when it fails."""
    streamer.text_queue.put(streamer.stop_signal)


def reentrant_checkpointing(model: "nn.Module") -> bool:
    """Whether some layer of a transformers model has been set to reentrant gradient checkpointing."""
    for layer in _checkpointed_layers(model):
        settings = getattr(getattr(layer, "_gradient_checkpointing_func", None), "keywords", {})
        if layer.gradient_checkpointing and settings.get("use_reentrant"):
            return True
    return False


@contextmanager
def checkpointed_layers(model: "nn.Module", function: Callable[..., Any]) -> Iterator[None]:
    """Inside the `with` the layers of a transformers model compute through `function(forward, *inputs)`.

    Switched layer by layer: transformers' own switch would also leave hooks on the embeddings.
    """
    layers = _checkpointed_layers(model)
    before = [(layer, layer.gradient_checkpointing, layer.training) for layer in layers]
    for layer in layers:
        layer._gradient_checkpointing_func = function
        layer.gradient_checkpointing = True
        layer.training = True  # of this module alone: the frozen parts inside stay in eval
    try:
        yield
    finally:
        for layer, flag, training in before:
            layer.gradient_checkpointing, layer.training = flag, training


def _checkpointed_layers(model: "nn.Module") -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]


# --- torch: what the processor can do ------------------------------------------------------------


def cpu_bf16() -> str | None:
    """The CPU's instructions for products in bf16; None where it has none, and fp32 is faster."""
    from torch import cpu

    if cpu._is_avx512_bf16_supported():
        return "AVX512-BF16"
    return "AMX" if cpu._is_amx_tile_supported() else None


# --- accelerate and bitsandbytes -----------------------------------------------------------------


def accelerate_device() -> "torch.device | None":
    """The device of this process's `Accelerator`, None while it has none: accelerate keeps one a process."""
    from accelerate.state import PartialState, is_initialized

    return PartialState().device if is_initialized() else None


def keep_nf4_layout(model: "nn.Module") -> None:
    """Keep bitsandbytes from repacking nf4 weights on a CPU: that fails for odd sizes and loses gradients."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


class _NoKernel(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_NoKernel())
"""On processors with AVX512-BF16, bitsandbytes warns at its import, which PEFT does for every model, that a
kernel to download is not there. It has another, and nothing is fetched here: users have nothing to do."""


# --- huggingface_hub: where its files lie --------------------------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}")


def cached_snapshot(folder: Path) -> tuple[str, str] | None:
    """("owner/name", commit) of a resolved folder in the Hub's cache; None where it is none.

    The cache holds `models--owner--name/snapshots/<commit>/`, links into `models--owner--name/blobs/`.
    """
    if folder.parent.name != "snapshots" or not _COMMIT.fullmatch(folder.name):
        return None
    return folder.parents[1].name.removeprefix("models--").replace("--", "/"), folder.name


def cache_blobs(folder: Path) -> list[Path]:
    """Where the links of a resolved snapshot may lead: blobs of its repository, or of the whole cache."""
    if folder.parent.name != "snapshots":
        return []
    return [folder.parents[1] / "blobs", folder.parents[2] / "blobs"]


def local_download(folder: Path, file: str) -> tuple[str, str] | None:
    """(commit, ETag) that `hf download --local-dir` noted of a file in that folder; None where it did not."""
    note = folder / ".cache/huggingface/download" / f"{file}.metadata"
    try:
        commit, etag = note.read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):
        return None
    return (commit, etag) if _COMMIT.fullmatch(commit) else None


# --- moviepy, gradio and spaces ------------------------------------------------------------------


def film_encoder() -> Any:
    """moviepy's class that feeds frames to ffmpeg one by one. Raises ModuleNotFoundError without moviepy."""
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    return FFMPEG_VideoWriter


def encoder_process(encoder: Any) -> Any:
    """ffmpeg's process: moviepy lets go of it, and of its exit code, when the encoder is closed."""
    return encoder.proc


def waiting_requests(blocks: Any) -> list[Any]:
    """The requests of the events that wait in a page's queue, those that are being worked on left out."""
    queues = blocks._queue.event_queue_per_concurrency_id.values()
    return [event.request for queue in queues for event in queue.queue]


def lenient(blocks: Any) -> Any:
    """A subclass of gradio's `Blocks` for pages and clients that are behind, and for long sessions.

    Endpoints take None for inputs that a client left out at the end. What was chosen before the choices
    changed reaches the handler as it was sent, which says or mends what is wrong. A component that a handler
    changed keeps its number: gradio gives the changed copy a new one, and keeps all while the session lives.
    """

    class Lenient(blocks):
        def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
            inputs.extend([None] * (len(block_fn.inputs) - len(inputs)))
            super().validate_inputs(block_fn, inputs)

        async def preprocess_data(
            self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
        ) -> Any:
            for block in block_fn.inputs:
                if hasattr(block, "choices"):
                    several = getattr(block, "multiselect", block.get_block_name() == "checkboxgroup")
                    (state[block._id] if state else block).preprocess = partial(_as_sent, several)
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)

        async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> Any:
            sent = await super().postprocess_data(block_fn, predictions, state)
            for block in block_fn.outputs:
                if state and not block.stateful and block._id in state:
                    state[block._id]._id = block._id
            return sent

    return Lenient


def _as_sent(several: bool | None, value: Any) -> Any:
    """What was chosen, as it was sent. Raises: TypeError: it is nothing that a choice could be."""
    chosen = (value or []) if several else [value]
    if isinstance(chosen, list) and all(isinstance(each, str | int | float | None) for each in chosen):
        return chosen if several else value
    raise TypeError(f"{value!r} is no choice")


def gradio_folder_of_owner() -> str | None:
    """The folder that the owner wants Gradio's files in, made where it is missing; None: the system's."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def keep_gradio_files_in(folder: Path) -> None:
    """Let Gradio keep uploads, and copies of what it shows, in `folder`, from components made from now on."""
    from gradio import mcp, routes

    folder.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = kept = str(folder.resolve())
    routes.DEFAULT_TEMP_DIR = mcp.DEFAULT_TEMP_DIR = kept  # read at their import


def gradio_folder() -> str:
    """Where Gradio keeps uploads, and copies of what it shows."""
    return os.environ.get("GRADIO_TEMP_DIR") or str((Path(tempfile.gettempdir()) / "gradio").resolve())


def leave_no_stray_file(component: Any) -> Any:
    """A gradio `File`, whose preprocessing would leave an empty temporary file each time; returns it."""
    component._process_single_file = lambda file: file.path
    return component


def as_endpoint_field(component: Any, example: Any, told: str, schema: Mapping[str, Any]) -> Any:
    """A gradio component with its sample value and its text on the page *Use via API*; returns it.

    schema: what of its JSON schema is more exact than gradio's.
    """
    info = {**component.api_info(), "additional_description": told, **schema}
    component.example_payload, component.api_info = lambda: example, lambda: info
    return component


def offer_as_tool(blocks: Any, endpoint: str, optional: Sequence[str]) -> None:
    """Let the MCP server of a launched page offer this endpoint alone, and these parameters be left out."""
    server = blocks.mcp_server_obj
    tools = {tool: known for tool, known in server.tool_to_endpoint.items() if known == endpoint}
    server.tool_to_endpoint = tools
    for parameter in server.api_info["named_endpoints"][endpoint]["parameters"]:
        if parameter["parameter_name"] in optional:
            parameter |= {"parameter_has_default": True, "parameter_default": None}


def on_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space, where every call on the GPU runs in a process of its own."""
    from spaces.config import Config

    return bool(Config.zero_gpu)
