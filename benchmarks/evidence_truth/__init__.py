"""How often evidence is true: each method's map of an answer beside what the world shows there."""
