"""The time of day of a process, set from outside while it runs: by the seconds in the file that SET_CLOCK names.

Python imports this module when it starts, if its folder is in PYTHONPATH.  A time of day that only this process has is
what a test can set without setting that of the whole machine.
"""

import os
import time

_path = os.environ.get("SET_CLOCK")
if _path:
    _file = os.open(_path, os.O_RDONLY)
    _time_ns = time.time_ns

    def _set_ns() -> int:
        return _time_ns() + int(os.pread(_file, 32, 0)) * 1_000_000_000

    def _set() -> float:
        return _set_ns() / 1e9

    time.time_ns, time.time = _set_ns, _set
