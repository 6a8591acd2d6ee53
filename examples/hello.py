"""Hello, world: ``zserve run hello --app-dir examples``, then ``curl http://127.0.0.1:8000/``."""

from __future__ import annotations

import zserve as serve

__serve_hint__ = "curl '{url}/?name=you'"


@serve.route("/")
def hello(request):
    return f"Hello, {request.args.get('name', 'world')}!\n"
