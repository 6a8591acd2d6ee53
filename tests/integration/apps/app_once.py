"""A handler that leaves a mark for each time that a request is run."""

from __future__ import annotations

import os
import time


def mark(request):
    name = request.get_data(as_text=True)
    with open(os.path.join(os.environ["MARKS"], name), "a") as file:
        file.write("x")
    time.sleep(0.01)
    return name
