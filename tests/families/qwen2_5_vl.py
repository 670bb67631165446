"""Qwen2.5-VL in small: patches of 4 px, windows of 16, pseudo-frames of 32, two frames a token."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from families.base import HEADS, IN_ORDER, LLM, SmallFamily, text_options

PATCH, WIDTH = 4, 32  # of the tower: pixels on a side of a patch; width of its tokens


class SmallQwen25VL(SmallFamily):
    """The RGB video keeps its shape, within the limits of pixels."""

    name = "qwen2_5_vl"
    special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    template = "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}" + IN_ORDER.replace(
        "VIDEO", "<|vision_start|><|video_pad|><|vision_end|>"
    )  # without images and tools
    preprocessor = {"min_pixels": 16 * 16, "max_pixels": 40 * 40, "patch_size": PATCH}
    stays_precise = ("lm_head", "model.visual")
    larger_tower = {"hidden_size": 96, "intermediate_size": 256, "out_hidden_size": 128}
    larger_text = {"rope_parameters": {"mrope_section": [4, 6, 6]}}
    tower = "model.visual"
    short_targets = [
        "qkv", "attn.proj", "gate_proj", "up_proj", "down_proj", "merger.mlp.0", "merger.mlp.2",
    ]  # fmt: skip
    older_names = {
        "4.52": ("model.visual", LLM),
        "4.45": ("visual", "model.layers"),
        "original": ("visual", "model.layers"),
    }
    frames_per_token = 2
    pixel_cases = {
        "odd": (3, 50, 70), "single": (1, 30, 20), "exact": (2, 32, 24),
        "tall": (2, 90, 31), "small": (2, 9, 7),
    }  # fmt: skip

    def model(self, words, tied, **text):
        ids = words.convert_tokens_to_ids
        options = text_options(words, **text)
        half = options["hidden_size"] // options["num_attention_heads"] // 2
        rope = {"rope_type": "default", "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
        config = Qwen2_5_VLConfig(
            text_config={**options, "rope_parameters": {**rope, "rope_theta": 10000.0}},
            vision_config=dict(
                depth=4, hidden_size=WIDTH, intermediate_size=56, num_heads=HEADS, patch_size=PATCH,
                window_size=16, fullatt_block_indexes=[1, 3], out_hidden_size=options["hidden_size"],
                tokens_per_second=4,
            ),
            image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
            tie_word_embeddings=tied,
        )  # fmt: skip
        return Qwen2_5_VLForConditionalGeneration(config)

    def true_preprocessor(self, row):
        return {"size": dict(zip(("shortest_edge", "longest_edge"), row.pixels, strict=True))}

    def prompt(self, messages, video):
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        return system + super().prompt(messages, video)

    def stock_media(self, backbone, video):
        side = backbone.model.config.vision_config.patch_size
        patches, grid = patchify(backbone.video_pixels(video.pixels), side)
        text = "<|vision_start|>" + "<|video_pad|>" * (len(patches) // 4) + "<|vision_end|>"
        step = torch.tensor([2 * float(video.times[1] - video.times[0])])
        return text, {"pixel_values_videos": patches, "video_grid_thw": grid, "second_per_grid_ts": step}

    def stock_inputs(self, backbone, video, messages):
        inputs = super().stock_inputs(backbone, video, messages)
        # Without these stock gives every token a position of text, silently.
        return inputs | {"mm_token_type_ids": (inputs["input_ids"] == backbone.placeholder).int() * 2}

    def encoded_together(self, backbone, inputs):
        pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
        return backbone.model.model.get_video_features(pixels, grid).pooler_output

    def split_heads(self, backbone, kept, layer, pixels):
        steps = len(pixels) // 2
        q, k, v = kept[layer, "qkv"].unflatten(1, (3, HEADS, -1)).unbind(1)  # (steps * n, H, d)
        angles = self.tower_order(backbone, rotary_angles(backbone, steps))  # (steps * n, d / 2)
        cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

        def rotate(x):
            half = x.shape[-1] // 2
            return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

        return [x.unflatten(0, (steps, -1)).transpose(1, 2) for x in (rotate(q), rotate(k), v)]

    def tower_order(self, backbone, x):
        """From 2 x 2 blocks row by row to the tower's order: window by window."""
        return window_order(backbone, x)

    def even_queries(self, backbone, layer):
        side = backbone.square // PATCH
        place = torch.arange(side * side).view(side // 2, 2, side // 2, 2).permute(0, 2, 1, 3).reshape(-1, 1)
        place = self.tower_order(backbone, place).flatten().view(backbone.windows(layer), -1)[0]
        return ((place // side % 2 == 0) & (place % side % 2 == 0)).nonzero().flatten()

    @property
    def recorded_preprocessor(self):
        least, most = self.preprocessor["min_pixels"], self.preprocessor["max_pixels"]
        return {"size": {"shortest_edge": least, "longest_edge": most}}  # as newer checkpoints write it

    def video_processor(self, statistics):
        from transformers import Qwen2VLVideoProcessor

        options = {"patch_size": PATCH, "cap_pixels_per_frame": False}
        return Qwen2VLVideoProcessor(**self.recorded_preprocessor, **options, **statistics)

    def tower_inputs(self, backbone, pixels):
        """Its processor gives patches, not frames: what the tower really gets is compared."""
        given = []
        hook = backbone.model.model.visual.register_forward_pre_hook(
            lambda module, args, kwargs: given.extend([*args, *kwargs.values()]), with_kwargs=True
        )
        with torch.no_grad():
            backbone.encode(pixels)
        hook.remove()
        patches, grid = (value for value in given if isinstance(value, torch.Tensor))
        return {"": patches, "/grid": grid}


def patchify(pixels, side=PATCH):
    """Patches one by one, and their grid: 2 x 2 of them stay together, two frames share a patch."""
    steps, rows, cols = len(pixels) // 2, pixels.shape[2] // side, pixels.shape[3] // side
    patches = []
    for t in range(steps):
        pair = pixels[2 * t : 2 * t + 2].transpose(0, 1)  # (3, 2, H, W)
        for block_row in range(0, rows, 2):
            for block_col in range(0, cols, 2):
                for row in (block_row, block_row + 1):
                    for col in (block_col, block_col + 1):
                        y, x = side * row, side * col
                        patches.append(pair[:, :, y : y + side, x : x + side].flatten())
    return torch.stack(patches), torch.tensor([[steps, rows, cols]])


def rotary_angles(backbone, steps):
    """Row angles and column angles of each patch, 2 x 2 patches together."""
    side, width = backbone.square // PATCH, WIDTH // HEADS
    speed = 1.0 / (10000.0 ** (torch.arange(0, width // 2, 2).float() / (width // 2)))
    places = [
        (r + dr, c + dc)
        for r in range(0, side, 2) for c in range(0, side, 2) for dr in (0, 1) for dc in (0, 1)
    ]  # fmt: skip
    return torch.stack([torch.cat([r * speed, c * speed]) for r, c in places]).repeat(steps, 1)


def window_order(backbone, x):
    """From 2 x 2 blocks row by row to the tower's order: window by window."""
    side = backbone.square // (2 * PATCH)  # tokens on a side; a window is 2 x 2 tokens
    order = [
        (wr + r) * side + wc + c
        for wr in range(0, side, 2) for wc in range(0, side, 2) for r in (0, 1) for c in (0, 1)
    ]  # fmt: skip
    return x.unflatten(0, (-1, side * side, 4))[:, order].flatten(0, 2)


FAMILY = SmallQwen25VL()
