"""What holds for all tests."""

from __future__ import annotations

import os
import signal

# pytest-xdist says that the terminal is 80 columns wide, which programs that are started from here would believe.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COLUMNS", None)

# A shell starts its background jobs with SIGINT ignored, which every process inherits that is started from there: tests
# that press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
