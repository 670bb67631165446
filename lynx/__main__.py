"""`python -m lynx` is the command `lynx`."""

import sys

from lynx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
