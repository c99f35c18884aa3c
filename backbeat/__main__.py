"""`python -m backbeat` is `backbeat`."""

import sys

from backbeat.cli.main import main

sys.exit(main())
