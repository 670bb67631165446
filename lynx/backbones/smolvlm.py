"""SmolVLM2: a SigLIP that takes one square, pixel shuffle and one linear layer as projector, a Llama.

A prompt is text that its processor writes: "User: ", how many frames of how long a video, and the moment
before the tokens of each frame. It is tokenized as one text, as the processor does, since words that are
tokenized apart give other ids.
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx.backbones.base import Backbone
from lynx.errors import BackboneError
from lynx.types import VIDEO, Stream, TokenLayout

IMAGE = "<image>"
"""The text of the placeholder."""
PICTURE = f"<fake_token_around_image><global-img>{IMAGE}<fake_token_around_image>"
"""One frame, or the whole of another sense, when the placeholder stands once for each of its tokens."""
MARKS = 3  # tokens of it beside the placeholders
LARGEST = 4096
"""Pixels of a frame's longer side that the stock processor does not exceed, whatever is configured."""


class SmolVLM(Backbone):
    """`SmolVLMForConditionalGeneration` in every size."""

    family = "smolvlm"
    vision_targets = (
        r".*vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
    )
    output_projection = "out_proj"
    llm_targets = r".*text_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    unquantized = ("lm_head", "model.vision_model", "model.connector")
    relatives = {
        "idefics3": "as SmolVLM's first version is, made for pictures; of SmolVLM2 there are "
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct, -500M-Video-Instruct and SmolVLM2-2.2B-Instruct"
    }
    # The stock processor's own template for videos, which replaces the checkpoint's. Here the header of the
    # message with the media is left to `media_ids`, so that what stands for them begins and ends beside
    # special tokens, where no word can merge with another.
    chat_template = (
        "<|im_start|>{% for message in messages %}"
        "{% if message['content'][0]['type'] == 'video' %}{{ '" + IMAGE + "\\n\\n' }}"
        "{% else %}{{ message['role'] | capitalize + ': ' }}{% endif %}"
        "{{ message['content'][-1]['text'] + '<end_of_utterance>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    before_answer = " "
    usual_frames = 8  # a CPU takes a second for each

    @property
    def placeholder(self) -> int:
        """The id of `<image>`."""
        return int(self.model.config.image_token_id)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one frame, after pixel shuffle."""
        rows, cols = self.patch_grid
        joined = self.model.config.scale_factor  # patches on a side of a token
        return rows // joined, cols // joined

    def tokens(self, frames: int, size: tuple[int, int] | None = None) -> int:
        """Tokens of a clip of that many frames of any size, without the words between them."""
        return frames * math.prod(self.token_grid)

    def captions(self, times: Tensor) -> int:
        """Introduction, moments and marks; of a clip that is taken to end at its last frame."""
        texts = [introduction(len(times), float(times[-1])), *map(moment, times.tolist())]
        return sum(len(self.text_ids(text)) for text in texts) + MARKS * len(times)

    def pixels(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, side, side), bit-equal to the stock video processor's.

        It resizes twice by Lanczos: to the longer side that the checkpoint names, then to the square.
        """
        square, between = self.preprocessing.size, self._size_between(*frames.shape[-2:])
        # One by one: a frame in between has up to 2048 x 2048 pixels.
        squares = [lanczos(lanczos(frame, between), square) for frame in frames.cpu().split(1)]
        return self.resize(torch.cat(squares), square)  # which is left to normalize them

    def _size_between(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a frame when its longer side is the checkpoint's and the other one even."""
        longer = min(self.preprocessing.longer_side, LARGEST)
        aspect = width / height  # divided and multiplied by as stock does it, which decides how this rounds
        shorter = int(longer / aspect) if width >= height else int(longer * aspect)
        shorter = max(1, shorter + shorter % 2)
        return (shorter, longer) if width >= height else (longer, shorter)

    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """(T, 3, h, w) -> tokens (T * rows * cols, D)."""
        model = self.model.model
        # Not `get_image_features`, which leaves out frames whose pixels are all 0, as padding.
        parts = [  # (frames, patches, D') -> (frames * rows * cols, D)
            model.connector(model.vision_model(part).last_hidden_state).flatten(0, 1)
            for part in pixels.split(self.frames_per_pass)
        ]
        return torch.cat(parts), TokenLayout.of(len(pixels), self.token_grid)

    def stock_inputs(self, pixels: Tensor, stream: Stream, ids: Tensor) -> dict[str, Tensor]:
        """The pixels, as frames of one clip."""
        return {"pixel_values": pixels[None]}

    def media_ids(self, streams: Sequence[Stream]) -> tuple[list[int], dict[str, list[int]]]:
        """The message's header, the video with its introduction, then a picture for each other sense."""
        ids = self.text_ids("User: " + "\n".join(map(as_text, streams)))
        at = (i for i, token in enumerate(ids) if token == self.placeholder)
        return ids, {stream.sense: list(islice(at, len(stream.tokens))) for stream in streams}

    def vision_attention_modules(self) -> list[nn.Module]:
        """The tower's attention modules, first layer first."""
        return [layer.self_attn for layer in self.model.model.vision_model.encoder.layers]

    def even_queries(self, length: int) -> Tensor:
        """Patches at even rows and columns."""
        rows, cols = self.patch_grid
        return (torch.arange(0, rows, 2)[:, None] * cols + torch.arange(0, cols, 2)).flatten()

    def interface_weights(self) -> list[Tensor]:
        """The one linear layer between tower and LLM."""
        return list(self.model.model.connector.parameters())


def lanczos(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, 3, H, W) uint8 -> (T, 3, *size) uint8, as torchvision's resize does it.

    Raises: BackboneError: this torch has no such filter.
    """
    if tuple(frames.shape[-2:]) == size:
        return frames
    try:
        return F.interpolate(frames, size, mode="lanczos", antialias=True)
    except NotImplementedError as error:
        raise BackboneError(
            f"SmolVLM's frames are resized by Lanczos, which torch {torch.__version__} cannot do: "
            "install torch 2.13 or newer"
        ) from error


def as_text(stream: Stream) -> str:
    """What a prompt holds of a stream, with the placeholder once for each of its tokens."""
    if stream.sense != VIDEO:
        return PICTURE.replace(IMAGE, IMAGE * len(stream.tokens))
    size = len(stream.tokens) // stream.steps
    seconds = stream.times[::size].tolist()
    duration = stream.duration if stream.duration is not None else seconds[-1]  # as stock does without it
    picture = PICTURE.replace(IMAGE, IMAGE * size)
    return introduction(stream.steps, duration) + "".join(moment(each) + picture for each in seconds)


def introduction(frames: int, duration: float) -> str:
    """The words before that many frames of a video of `duration` seconds."""
    clock = timedelta(seconds=int(duration))
    return (
        f"You are provided the following series of {number_in_words(frames)} frames from a {clock} "
        "[H:MM:SS] video.\n"
    )


def moment(seconds: float) -> str:
    """The words before the frame at `seconds` of the recording."""
    minutes, rest = divmod(int(seconds), 60)
    return f"\nFrame from {minutes:02d}:{rest:02d}:"


ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_in_words(number: int) -> str:
    """0 to 999,999 as num2words, which the stock processor uses, writes it in English."""
    if number < len(ONES):
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    more = (" and " if rest < 100 else ", ") + number_in_words(rest) if rest else ""
    return f"{number_in_words(count)} {name}{more}"
