"""Qwen3-VL in small: Qwen2.5-VL without windows, with features of two layers and with seconds in words."""

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from families.base import HEADS, text_options
from families.qwen2_5_vl import PATCH, WIDTH, SmallQwen25VL, patchify


class SmallQwen3VL(SmallQwen25VL):
    """The limits of pixels are of all frames together; heads of the LLM have a width of their own."""

    name = "qwen3_vl"
    preprocessor = {"size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 48 * 48}, "patch_size": PATCH}
    larger_text = {}
    short_targets = ["qkv", "attn.proj", "linear_fc1", "linear_fc2"]
    pixel_cases = {
        "odd": (3, 50, 70), "exact": (2, 32, 24), "tall": (4, 90, 31), "small": (2, 9, 7),
        "long": (15, 40, 56),
    }  # fmt: skip

    def model(self, words, tied, **text):
        ids = words.convert_tokens_to_ids
        options = text_options(words, **{"head_dim": 16, **text})
        rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}
        config = Qwen3VLConfig(
            text_config={**options, "rope_parameters": rope, "tie_word_embeddings": tied},
            vision_config=dict(
                depth=4, hidden_size=WIDTH, intermediate_size=56, num_heads=HEADS, patch_size=PATCH,
                num_position_embeddings=36, out_hidden_size=options["hidden_size"],
                deepstack_visual_indexes=[0, 2],
            ),
            image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
            tie_word_embeddings=tied,
        )  # fmt: skip
        return Qwen3VLForConditionalGeneration(config)

    def stock_media(self, backbone, video):
        side = backbone.model.config.vision_config.patch_size
        patches, grid = patchify(backbone.video_pixels(video.pixels), side)
        pads = "<|video_pad|>" * (len(patches) // 4 // int(grid[0, 0]))
        times = video.times.tolist()
        times += times[-1:] * (len(times) % 2)
        text = "".join(
            f"<{(first + second) / 2:.1f} seconds><|vision_start|>{pads}<|vision_end|>"
            for first, second in zip(times[::2], times[1::2], strict=True)
        )
        tensors = {"pixel_values_videos": patches, "video_grid_thw": grid}
        return f"<|vision_start|>{text}<|vision_end|>", tensors

    def encoded_together(self, backbone, inputs):
        pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
        output = backbone.model.model.get_video_features(pixels, grid)
        clips = zip(output.pooler_output, *output.deepstack_features, strict=True)
        return [torch.cat(parts, dim=1) for parts in clips]

    def tower_order(self, backbone, x):
        return x

    @property
    def recorded_preprocessor(self):
        return self.preprocessor

    def video_processor(self, statistics):
        from transformers import Qwen3VLVideoProcessor

        options = {"do_sample_frames": False, "cap_pixels_per_frame": False}
        return Qwen3VLVideoProcessor(**self.preprocessor, **options, **statistics)


FAMILY = SmallQwen3VL()
