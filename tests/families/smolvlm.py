"""SmolVLM2 in small: its SigLIP, pixel shuffle, a linear layer, Llama; frames of 32 px in patches of 4."""

from types import SimpleNamespace
from unittest import mock

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm import processing_smolvlm as stock
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from families.base import HEADS, IN_ORDER, SmallFamily, text_options

WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
"""What num2words, which is not installed, writes for the numbers of frames in tests."""


class SmallSmolVLM(SmallFamily):
    """The text of a prompt is made by the stock processor's own code."""

    name = "smolvlm"
    special = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<image>")
    end = "<end_of_utterance>"
    # As a checkpoint may have one: the stock processor takes its own in its place.
    template = IN_ORDER.replace("VIDEO", "<video>")
    preprocessor = {
        "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32},
        "video_sampling": {"max_frames": 64, "fps": 1, "video_size": {"longest_edge": 32}},
    }  # fmt: skip
    stays_precise = ("lm_head", "model.vision_model", "model.connector")
    tower, llm = "model.vision_model.encoder", "model.text_model.layers"
    short_targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    older_names = {
        "4.52": ("model.vision_model.encoder", "model.text_model.layers"),
        "4.45": ("model.vision_model.encoder", "model.text_model.layers"),
        "original": ("model.vision_model.encoder", "model.text_model.layers"),
    }
    pixel_cases = {
        "wide": (3, 50, 70), "tall": (2, 90, 31), "square": (2, 41, 41), "exact": (2, 64, 64),
        "small": (1, 9, 12), "sliver": (1, 4, 300),
    }  # fmt: skip

    def model(self, words, tied, **text):
        options = text_options(words, **text)
        config = SmolVLMConfig(
            text_config={"model_type": "llama", **options, "tie_word_embeddings": tied},
            vision_config=SmolVLMVisionConfig(
                hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=HEADS,
                image_size=32, patch_size=4,
            ),
            scale_factor=2, image_token_id=words.convert_tokens_to_ids("<image>"), tie_word_embeddings=tied,
        )  # fmt: skip
        return SmolVLMForConditionalGeneration(config)

    def true_preprocessor(self, row):
        side = row.size[0]
        return {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}

    def prompt(self, messages, video):
        blocks = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        if video:
            blocks[0]["content"].insert(0, {"type": "video"})
        options = {"chat_template": stock.DEFAULT_CHAT_TEMPLATE, "add_generation_prompt": True}
        text = self.tokenizer().apply_chat_template(blocks, tokenize=False, **options)
        return text.replace("<video>", video)

    def stock_media(self, backbone, video):
        pixels = backbone.video_pixels(video.pixels)[None]  # (1, T, 3, h, w)
        mask = torch.ones_like(pixels[:, :, 0], dtype=torch.int64)
        text = stock_text(len(video), video.times.tolist(), video.duration, backbone.tokens(1))
        return text, {"pixel_values": pixels, "pixel_attention_mask": mask}

    def encoded_together(self, backbone, inputs):
        given = (inputs["pixel_values"], inputs["pixel_attention_mask"])
        return backbone.model.model.get_image_features(*given).pooler_output

    def video_processor(self, statistics):
        from transformers import SmolVLMVideoProcessor

        return SmolVLMVideoProcessor(**self.preprocessor, **statistics)


def stock_text(frames, times, duration, tokens, words=None):
    """What the stock processor puts in the place of a video. words: of the number of frames."""
    processor = object.__new__(stock.SmolVLMProcessor)  # which needs num2words and torchvision to be made
    processor.image_token, processor.fake_image_token = "<image>", "<fake_token_around_image>"
    processor.global_image_token, processor.image_seq_len = "<global-img>", tokens
    metadata = SimpleNamespace(fps=1.0, timestamps=times, duration=duration)
    given = {"pixel_values": torch.empty(1, frames, 0), "video_metadata": [metadata]}
    with mock.patch.object(stock, "num2words", lambda number: words or WORDS[number]):
        return processor.replace_video_token(given, 0)


FAMILY = SmallSmolVLM()
