"""LLaVA-OneVision in small: SigLIP, two layers of projector, Qwen2; frames of 28 px in patches of 4."""

from transformers import (
    Dinov2Config,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from families.base import HEADS, LLM, SmallFamily, text_options


class SmallLlavaOnevision(SmallFamily):
    """`lynx-tiny` is of this family, so most tests that need any backbone take this one."""

    name = "llava_onevision"
    special = ("<image>", "<video>")
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
        "{{ '<video>' }}{% endfor %}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ '\\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    quantizable = {"hidden": 64, "tied": False}
    short_targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    older_names = {
        "4.52": ("model.vision_tower.vision_model.encoder", LLM),
        "4.45": ("vision_tower.vision_model.encoder", "language_model.model.layers"),
        "original": ("model.vision_tower.vision_tower.vision_model.encoder", "model.layers"),
    }
    answers_as_in_history = False
    variants = {"llava_onevision_inner": {"inner": -2}, "llava_onevision_dinov2": {"other": True}}
    """A projector that reads the tower before its last layer; another tower and LLM."""
    pixel_cases = {"wide": (2, 50, 70), "tall": (2, 90, 31), "exact": (2, 28, 28), "small": (2, 9, 12)}

    def write(self, folder, *, seed=0, tied=True, **sizes):
        """As for all families, but tied unless said otherwise, as the smallest real one is."""
        return super().write(folder, seed=seed, tied=tied, **sizes)

    def model(self, words, tied, *, hidden=48, layers=2, side=28, ffn=80, inner=-1, other=False):
        ids = words.convert_tokens_to_ids
        tower = dict(hidden_size=32, num_hidden_layers=layers + 1, num_attention_heads=HEADS)
        tower |= dict(image_size=side, patch_size=4)
        sizes = dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers)
        text = text_options(words, **sizes, tie_word_embeddings=tied)
        if other:
            vision, llm = Dinov2Config(**tower, mlp_ratio=2), LlamaConfig(**text)
        else:
            vision = SiglipVisionConfig(**tower, intermediate_size=56, vision_use_head=False)
            llm = Qwen2Config(**text)
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=llm, vision_feature_layer=inner,
            vision_feature_select_strategy="default" if other else "full",  # "default": no class token
            image_token_index=ids("<image>"), video_token_index=ids("<video>"), tie_word_embeddings=tied,
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(config)

    def preprocessor_of(self, side=28, **sizes):
        return {"size": {"height": side, "width": side}}

    def prompt(self, messages, video):
        text = ""
        for i, message in enumerate(messages):
            media = video if i == 0 else ""
            text += f"<|im_start|>{message['role']} {media}\n{message['content']}<|im_end|>"
        return text + "<|im_start|>assistant\n"

    def stock_media(self, backbone, video):
        vision = backbone.model.config.vision_config
        side = vision.image_size // vision.patch_size
        text = "<video>" * (len(video) * ((side + 1) // 2) ** 2 + 1)  # the newline is the last of them
        return text, {"pixel_values_videos": backbone.video_pixels(video.pixels)[None]}

    def even_queries(self, backbone, layer):
        patches = super().even_queries(backbone, layer)
        return patches + hasattr(backbone.model.model.vision_tower.embeddings, "cls_token")

    def video_processor(self, statistics):
        from transformers import LlavaOnevisionVideoProcessor

        return LlavaOnevisionVideoProcessor(**self.preprocessor_of(), **statistics)


FAMILY = SmallLlavaOnevision()
