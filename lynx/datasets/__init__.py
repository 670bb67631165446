"""Examples to train and measure on, from files and from the miniature world."""
