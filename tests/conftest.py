"""What holds for all tests."""

from __future__ import annotations

import os
import signal

# pytest-xdist says that the terminal is 80 columns wide, which programs that are started from here would believe.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COLUMNS", None)

# A shell starts its background jobs with SIGINT ignored, and nohup does so with SIGHUP, which every process inherits
# that is started from there: tests that press Ctrl-C, or close the terminal, would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
