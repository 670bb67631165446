"""Examples to train and measure on: what they are, and the sources they are read from."""
