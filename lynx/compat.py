"""What leans on the insides of other libraries; each has a canary test."""

PEFT_PREFIX = "base_model.model."
"""What PEFT's files put before a module's name."""
