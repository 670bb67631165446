"""lynx as a model of lmms-eval: `lmms_eval --model lynx --model_args adapter=audio,senses=video+audio`.

lmms-eval finds `manifest` by the entry-point group `lmms_eval.models`; it is no dependency of lynx. All but
`plugin` works without it.
"""

from typing import Any


def manifest() -> Any:
    """The `ModelManifest` of the name `lynx`: a model in messages, and by `--force_simple` a simple one."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "lynx",
        simple_class_path="lynx.lmms.plugin.LynxSimple",
        chat_class_path="lynx.lmms.plugin.LynxChat",
    )
