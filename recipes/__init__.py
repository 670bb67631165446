"""How shipped things were made, experiments included. What is here imports lynx, never the other way."""
