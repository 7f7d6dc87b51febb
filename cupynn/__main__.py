"""`python -m cupynn` is the command `cupynn`."""

import sys

from cupynn.cli import main

if __name__ == "__main__":
    sys.exit(main())
