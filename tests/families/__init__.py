"""The small checkpoints that stand for each family in tests, one file a family: a new file is found here.

`FAMILIES` has them by their `model_type`.
"""

import pkgutil
from importlib import import_module

from families.base import SmallFamily

FAMILIES: dict[str, SmallFamily] = {}
for found in pkgutil.iter_modules(__path__):
    if found.name != "base":
        family = import_module(f"families.{found.name}").FAMILY
        FAMILIES[family.name] = family


def of(backbone) -> SmallFamily:
    """The one that a backbone is of."""
    return FAMILIES[backbone.family]
