"""Small checkpoints of the stock classes with random weights: they stand for the real ones in tests."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from lynx.adapters.format import Adapter
from lynx.config import LoraSettings
from lynx.types import Frames, Waveform

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of llava-hf's checkpoints, without images."""

IN_ORDER = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}{{ 'VIDEO' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN_TEMPLATE = "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}" + IN_ORDER.replace(
    "VIDEO", "<|vision_start|><|video_pad|><|vision_end|>"
)
"""The template of Qwen2.5-VL's checkpoints, without images and tools."""
INTERNVL_TEMPLATE = IN_ORDER.replace("VIDEO", "<video>\\n")
"""The template of InternVL's transformers-native checkpoints, without images."""

SPECIAL = {
    "llava_onevision": ("<image>", "<video>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "internvl": ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
}
NAMED = {
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
}
"""Special tokens that a family's tokenizer has names for."""


def tokenizer(family: str = "llava_onevision") -> PreTrainedTokenizerFast:
    """Byte-level: any text, no unknown token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL[family])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=NAMED.get(family, {}),
    )


def text_options(words: PreTrainedTokenizerFast, **sizes: Any) -> dict[str, Any]:
    """The options of a small Qwen2."""
    ids = words.convert_tokens_to_ids
    small = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4)
    more = dict(num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=None)
    ends = dict(eos_token_id=ids("<|im_end|>"), pad_token_id=ids("<|endoftext|>"))
    return {"vocab_size": len(words), **small, **more, **ends, **sizes}


def write(
    folder: Path,
    model: PreTrainedModel,
    words: PreTrainedTokenizerFast,
    template: str,
    preprocessor: dict[str, Any],
    std: float | None = 0.15,
) -> Path:
    """A checkpoint folder; weights livelier than the default, so that answers depend on inputs."""
    for name, weight in model.named_parameters() if std else ():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, **statistics}))
    return folder


def llava_onevision(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 48,
    layers: int = 2,
    tied: bool = True,
    side: int = 28,
    ffn: int = 80,
) -> Path:
    """Write a random LLaVA-OneVision checkpoint of a few layers; frames of `side` px in patches of 4."""
    torch.manual_seed(seed)
    words = tokenizer()
    ids = words.convert_tokens_to_ids
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=layers + 1, num_attention_heads=4,
        image_size=side, patch_size=4, vision_use_head=False,
    )  # fmt: skip
    sizes = dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**text_options(words, **sizes, tie_word_embeddings=tied)),
        image_token_index=ids("<image>"), video_token_index=ids("<video>"), tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config)
    return write(folder, model, words, LLAVA_TEMPLATE, {"size": {"height": side, "width": side}})


def qwen2_5_vl(folder: Path, *, seed: int = 0, tied: bool = False, **text: Any) -> Path:
    """Write a random Qwen2.5-VL checkpoint: patches of 4 px, windows of 16, pseudo-frames of 32."""
    torch.manual_seed(seed)
    words = tokenizer("qwen2_5_vl")
    ids = words.convert_tokens_to_ids
    options = text_options(words, **text)
    half = options["hidden_size"] // options["num_attention_heads"] // 2
    rope = {"rope_type": "default", "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    config = Qwen2_5_VLConfig(
        text_config={**options, "rope_parameters": {**rope, "rope_theta": 10000.0}},
        vision_config=dict(
            depth=4, hidden_size=32, intermediate_size=56, num_heads=4, patch_size=4, window_size=16,
            fullatt_block_indexes=[1, 3], out_hidden_size=options["hidden_size"], tokens_per_second=4,
        ),
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    limits = {"min_pixels": 16 * 16, "max_pixels": 40 * 40, "patch_size": 4}
    return write(folder, model, words, QWEN_TEMPLATE, limits)


def internvl(folder: Path, *, seed: int = 0, tied: bool = False, side: int = 32, **text: Any) -> Path:
    """Write a random InternVL checkpoint: frames of `side` px in patches of 4."""
    torch.manual_seed(seed)
    words = tokenizer("internvl")
    ids = words.convert_tokens_to_ids
    options = text_options(words, **text)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **options, "tie_word_embeddings": tied},
        vision_config=InternVLVisionConfig(
            hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
            image_size=[side, side], patch_size=[4, 4], attention_bias=True,
        ),
        image_token_id=ids("<IMG_CONTEXT>"), image_seq_length=(side // 8) ** 2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config)
    return write(folder, model, words, INTERNVL_TEMPLATE, {"size": {"height": side, "width": side}})


FAMILIES = {"llava_onevision": llava_onevision, "qwen2_5_vl": qwen2_5_vl, "internvl": internvl}
VARIANTS = {**FAMILIES, "internvl_qwen3": partial(internvl, model_type="qwen3", head_dim=16)}
"""The families, and InternVL 3.5's LLM: heads of their own width, norms of queries and keys."""


def render(messages: list[dict[str, str]], family: str = "llava_onevision", video: str = "<video>") -> str:
    """The prompt as text, written out by hand: `video` before the first question."""
    text = ""
    if family == "qwen2_5_vl":
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for i, message in enumerate(messages):
        media, role, content = video if i == 0 else "", message["role"], message["content"]
        if family == "llava_onevision":
            text += f"<|im_start|>{role} {media}\n{content}<|im_end|>"
        else:
            text += f"<|im_start|>{role}\n{media}{content}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def stock_inputs(backbone: Any, video: Frames, messages: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """What the stock processor of the family gives for a video and messages, by its own formulas."""
    family, pixels = backbone.family, backbone.video_pixels(video.pixels)
    more: dict[str, torch.Tensor] = {}
    if family == "llava_onevision":
        side = backbone.model.config.vision_config.image_size // 4
        text = "<video>" * (len(video) * ((side + 1) // 2) ** 2 + 1)
        more = {"pixel_values_videos": pixels[None]}
    elif family == "internvl":
        count = (backbone.model.config.vision_config.image_size[0] // 8) ** 2
        context = "<img>" + "<IMG_CONTEXT>" * count + "</img>"
        text = "\n".join(f"Frame{i + 1}: {context}" for i in range(len(video))) + "\n"
        more = {"pixel_values": pixels}
    else:
        patches, grid = patchify(pixels)
        text = "<|vision_start|>" + "<|video_pad|>" * (len(patches) // 4) + "<|vision_end|>"
        step = torch.tensor([2 * float(video.times[1] - video.times[0])])
        more = {"pixel_values_videos": patches, "video_grid_thw": grid, "second_per_grid_ts": step}
    inputs = backbone.tokenizer(render(messages, family, text), return_tensors="pt")
    if family == "qwen2_5_vl":
        more["mm_token_type_ids"] = (inputs["input_ids"] == backbone.placeholder).int() * 2
    more |= {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    return {name: tensor.to(backbone.device) for name, tensor in more.items()}


def patchify(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Qwen's patches of 4 px, one by one: 2 x 2 of them stay together, two frames share a patch."""
    steps, rows, cols = len(pixels) // 2, pixels.shape[2] // 4, pixels.shape[3] // 4
    patches = []
    for t in range(steps):
        pair = pixels[2 * t : 2 * t + 2].transpose(0, 1)  # (3, 2, H, W)
        for block_row in range(0, rows, 2):
            for block_col in range(0, cols, 2):
                for row in (block_row, block_row + 1):
                    for col in (block_col, block_col + 1):
                        patches.append(pair[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].flatten())
    return torch.stack(patches), torch.tensor([[steps, rows, cols]])


def random_adapter(
    model: Any, name: str, modality: str = "audio", parts: Sequence[str] = ("vision", "llm"), **more: Any
) -> None:
    """Register an adapter whose LoRAs are random and strong enough to change every answer."""
    model.add_adapter(Adapter(name, modality, **more))
    for part in parts:
        lora = model.add_lora(name, part, LoraSettings(4, 8.0, 0.1))
        generator = torch.Generator().manual_seed(len(model.adapters))
        for weight in model.lora.tensors(lora).values():
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def clip(n: int = 8, height: int = 50, width: int = 70, seed: int = 0) -> Frames:
    """`n` frames of noise, two a second."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    return Frames(pixels, torch.arange(n).double() / 2, n / 2)


def sound(seconds: float = 4.0, seed: int = 0) -> Waveform:
    """Noise at 16 kHz."""
    return Waveform(
        torch.randn(int(seconds * 16000), generator=torch.Generator().manual_seed(seed)) * 0.1, 16000
    )


_OURS, _PEFT = "lynx_config.json", "adapter_config.json"
JSON_DAMAGES = {  # file, what replaces or joins its content, the reason
    "a rank without end": (_PEFT, '"r": Infinity', "r is inf, expected a finite number"),
    "a rank that overflows": (_PEFT, '"r": 1e400', "r is inf, expected a finite number"),
    "a rank that is not a number": (_PEFT, '"r": NaN', "r is nan"),
    "a rank beyond 64 bits": (_PEFT, f'"r": {10**400}', r"r is 1000.*below 2\^63"),
    "a rank that python does not read": (_PEFT, f'"r": {"9" * 9000}', "cannot read"),
    "a huge rank": (_PEFT, '"r": 1000000000000', "rank 1000000000000, expected a LORA of rank 1 to"),
    "a rank in a list": (_PEFT, '"r": [4]', r"r is \[4\]"),
    "a rank that is a truth": (_PEFT, '"r": true', "r is True"),
    "half a rank": (_PEFT, '"r": 4.5', "r is 4.5"),
    "a scale without end": (_PEFT, '"lora_alpha": -Infinity', "lora_alpha is -inf"),
    "a huge scale": (_PEFT, '"lora_alpha": 1e300', "alpha 1e\\+300"),
    "a dropout of a wrong type": (_PEFT, '"lora_dropout": {"a": 1}', "lora_dropout {'a': 1}"),
    "lists without end": (_PEFT, "[" * 100_000, "nested deeper than"),
    "objects without end": (_PEFT, '"x": ' + '{"x": ' * 500 + "1" + "}" * 500, "nested deeper than"),
    "a list": (_PEFT, "[1]", "holds a list"),
    "nothing": (_PEFT, "", "cannot read"),
    "bytes that are no text": (_PEFT, b"\xff\xfe{}", "cannot read"),
    "half a character": (_OURS, '"metrics": {"n": "\\ud800"}', "control characters"),
    "an escape sequence": (_OURS, '"metrics": {"n": "\\u001b[2J"}', "control characters"),
    "megabytes": (_OURS, '"metrics": {"n": "' + "x" * 1_100_000 + '"}', "at most 1,000,000"),
    "a deep description": (_OURS, "{" * 3 + "[" * 100_000, "cannot read|nested deeper than"),
    "a metric without end": (_OURS, '"metrics": {"with": {"n": Infinity}}', "metrics.with.n is inf"),
    "a metric that is a list": (_OURS, '"metrics": {"with": [1, 2]}', r"metrics.with is \[1, 2\]"),
    "metrics in a list": (_OURS, '"metrics": [0.9]', "expected an object"),
    "a metric's name in two lines": (_OURS, '"metrics": {"a\\nb": 1}', "printable characters"),
    "a rendering of a wrong type": (_OURS, '"rendering": {"n_mels": "32"}', "n_mels of audio is '32'"),
    "half a row of pixels": (_OURS, '"rendering": {"n_mels": 32.5}', "n_mels of audio is 32.5"),
    "a rendering in a list": (_OURS, '"rendering": {"n_mels": [32]}', "n_mels of audio is"),
    "a name in two lines": (_OURS, '"name": "audio\\nb"', "cannot name"),
    "a modality in two lines": (_OURS, '"modality": "au\\ndio"', "no modality"),
    "a backbone in two lines": (_OURS, '"backbone": {"source": "a\\nb"}', "backbone.source is"),
    "a backbone in a list": (_OURS, '"backbone": {"source": ["a"]}', "backbone.source is"),
    "a format without end": (_OURS, '"format": Infinity', "format is inf"),
}
"""Values in an adapter's JSON that its reader must survive."""


def damage_json(folder: Path, case: str) -> None:
    """Put one of JSON_DAMAGES into an adapter's folder; of a name that stands twice the last value counts."""
    file, text, _ = JSON_DAMAGES[case]
    path = folder / file if file == _OURS else folder / "llm" / file
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text.startswith('"'):
        path.write_text(f"{path.read_text().rstrip()[:-1]}, {text}}}")
    else:
        path.write_text(text)
