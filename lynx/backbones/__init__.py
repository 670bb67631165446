"""Backbones: one file a family, one catalog row a model."""

from lynx.backbones.base import Backbone
from lynx.backbones.catalog import CATALOG, FAMILIES
from lynx.backbones.loading import load_backbone, parse_source, skeleton
from lynx.backbones.sizes import Preprocessing

__all__ = ["CATALOG", "FAMILIES", "Backbone", "Preprocessing", "load_backbone", "parse_source", "skeleton"]
