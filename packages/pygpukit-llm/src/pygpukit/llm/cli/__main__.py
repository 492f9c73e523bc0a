"""`python -m pygpukit.llm.cli`."""

import sys

from pygpukit.llm.cli import main

sys.exit(main())
