"""How `adapters/sounds` was made: real sounds and spoken digits, heard by an embedded backbone of 2.2 million
parameters. `README.md` has the commands; `python -m recipes.real_sounds --help` lists them."""
