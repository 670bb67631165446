"""lynx gives an existing Video LLM new senses."""

__version__ = "0.1.0"
