"""A task of two rows, and an environment, for lynx as a model of lmms-eval."""
