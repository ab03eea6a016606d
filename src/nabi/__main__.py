"""``python -m nabi``."""

import sys

from nabi.cli import main

if __name__ == "__main__":
    sys.exit(main())
