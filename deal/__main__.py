"""``python -m deal``: the same as the ``deal`` command."""

import sys

from deal.cli import main

if __name__ == "__main__":
    sys.exit(main())
