"""Stages 1 and 2: the statistics of the token interface, and the training that moves a new sense onto it."""
