"""The three stages: guidance, alignment, instruction tuning."""
