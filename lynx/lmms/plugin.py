"""The classes that lmms-eval makes a model of: see `lynx.lmms.manifest`."""

from lynx.lmms.model import ChatModel, SimpleModel

try:
    from lmms_eval.api.model import lmms
except ModuleNotFoundError as error:
    if not str(error.name).startswith("lmms_eval"):  # it is installed, what it needs is not
        raise
    lmms = object  # it alone makes a model of them


class LynxSimple(SimpleModel, lmms):
    """By `--force_simple`: for tasks of `doc_to_visual` and `doc_to_text`."""

    is_simple = True


class LynxChat(ChatModel, lmms):
    """For tasks of `doc_to_messages`, which lmms-eval makes of the others, too."""

    is_simple = False
