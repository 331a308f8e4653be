"""Entry point of `python -m quantization`."""

import sys

from quantization.cli import main

sys.exit(main())
