"""What `pyproject.toml` cannot say: the trained adapters, which lie beside the package, travel inside it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ADAPTERS = ("audio", "depth", "high_fps", "multi_view", "sounds")


class BuildWithAdapters(build_py):
    """Copies the adapters to `lynx/assets/adapters`; an editable install finds them where they are."""

    def run(self) -> None:
        """Copy the package, then the adapters."""
        super().run()
        if not self.editable_mode:
            for name in ADAPTERS:
                target = Path(self.build_lib, "lynx", "assets", "adapters", name)
                self.copy_tree(str(Path("adapters", name)), str(target))


setup(cmdclass={"build_py": BuildWithAdapters})
