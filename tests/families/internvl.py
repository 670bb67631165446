"""InternVL in small: InternViT with a class token, pixel shuffle, Qwen2 or Qwen3; frames of 32 px."""

from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig

from families.base import HEADS, IN_ORDER, LLM, SmallFamily, text_options


class SmallInternVL(SmallFamily):
    """Patches of 4 px, a token for 2 x 2 of them."""

    name = "internvl"
    special = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    template = IN_ORDER.replace("VIDEO", "<video>\\n")  # without images
    variants = {"internvl_qwen3": {"model_type": "qwen3", "head_dim": 16}}
    """InternVL 3.5's LLM: heads of their own width, norms of queries and keys."""
    short_targets = ["q_proj", "k_proj", "v_proj", "projection_layer", "fc1", "fc2"]
    older_names = {
        "4.52": ("model.vision_tower.encoder", LLM),
        "4.45": ("vision_tower.encoder", "language_model.model.layers"),
        "original": ("vision_model.encoder", "language_model.model.layers"),
    }
    leading_tokens = 1
    pixel_cases = {"wide": (3, 50, 70), "exact": (2, 32, 32), "small": (1, 9, 12)}

    def model(self, words, tied, *, side=32, **text):
        options = text_options(words, **text)
        config = InternVLConfig(
            text_config={"model_type": "qwen2", **options, "tie_word_embeddings": tied},
            vision_config=InternVLVisionConfig(
                hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=HEADS,
                image_size=[side, side], patch_size=[4, 4], attention_bias=True,
            ),
            image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=(side // 8) ** 2,
            tie_word_embeddings=tied,
        )  # fmt: skip
        return InternVLForConditionalGeneration(config)

    def preprocessor_of(self, side=32, **sizes):
        return {"size": {"height": side, "width": side}}

    def stock_media(self, backbone, video):
        vision = backbone.model.config.vision_config
        count = (vision.image_size[0] // vision.patch_size[0] // 2) ** 2
        context = "<img>" + "<IMG_CONTEXT>" * count + "</img>"
        text = "\n".join(f"Frame{i + 1}: {context}" for i in range(len(video))) + "\n"
        return text, {"pixel_values": backbone.video_pixels(video.pixels)}

    def encoded_together(self, backbone, inputs):
        features = backbone.model.model.get_image_features(inputs["pixel_values"])
        return features.pooler_output.flatten(0, 1).chunk(2)

    def video_processor(self, statistics):
        from transformers import InternVLVideoProcessor

        return InternVLVideoProcessor(**self.preprocessor_of(), **statistics)


FAMILY = SmallInternVL()
