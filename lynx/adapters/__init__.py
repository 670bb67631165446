"""Adapters: their format on disk, their LoRAs in a model, sharing them."""
