"""``python -m ggembed``."""

import sys

from .cli import main

sys.exit(main())
