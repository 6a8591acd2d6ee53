from __future__ import annotations

import sys
from pathlib import Path

# The harness is not installed: it runs from a clone, as `python -m benchmarks` in its top folder.
ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
