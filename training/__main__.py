"""`python -m training` is `gradcast`."""

import sys

from training.cli import main

sys.exit(main())
