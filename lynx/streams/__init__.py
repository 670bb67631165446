"""Streams: which moments are looked at, what a stream is named by, how it is encoded and kept."""
