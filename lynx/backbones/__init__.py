"""Backbones: one file a family, one catalog row a model."""

from lynx.backbones.base import Backbone, Preprocessing
from lynx.backbones.catalog import CATALOG, EMBEDDED, FAMILIES
from lynx.backbones.loading import load_backbone, parse_source, skeleton
from lynx.types import PLACEMENTS, Message, Prompt, Stream, TokenLayout

__all__ = [
    "CATALOG",
    "EMBEDDED",
    "FAMILIES",
    "PLACEMENTS",
    "Backbone",
    "Prompt",
    "Message",
    "Preprocessing",
    "Stream",
    "TokenLayout",
    "load_backbone",
    "parse_source",
    "skeleton",
]
