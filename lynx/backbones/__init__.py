"""Backbones: one file a family, one catalog row a model."""

from lynx.backbones.base import PLACEMENTS, Backbone, Composed, Message, Preprocessing, Stream, TokenLayout
from lynx.backbones.catalog import CATALOG, EMBEDDED
from lynx.backbones.loading import FAMILIES, count_parameters, load_backbone, parse_source, skeleton

__all__ = [
    "CATALOG",
    "EMBEDDED",
    "FAMILIES",
    "PLACEMENTS",
    "Backbone",
    "Composed",
    "Message",
    "Preprocessing",
    "Stream",
    "TokenLayout",
    "count_parameters",
    "load_backbone",
    "parse_source",
    "skeleton",
]
