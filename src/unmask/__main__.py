"""``python -m unmask`` is the same as ``unmask``."""

import sys

from unmask.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
