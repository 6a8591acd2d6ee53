"""What a handler reads of a request: everything that werkzeug's Request offers."""

from __future__ import annotations

from werkzeug.wrappers import Response


def form(request):
    return {
        "fields": request.form.to_dict(flat=False),
        "files": {name: [file.filename, file.read().decode()] for name, file in request.files.items()},
    }


def cookies(request):
    answer = Response(request.cookies.get("visits", "0"))
    answer.set_cookie("visits", str(int(request.cookies.get("visits", "0")) + 1), httponly=True)
    return answer


def args(request):
    return {"args": request.args.to_dict(flat=False), "path": request.path, "agent": request.headers["user-agent"]}


def item(request, name, number):
    return {"name": name, "number": number, "view_args": request.view_args, "url": request.path}


def rest(rest):
    return {"rest": rest}


def size(request):
    return {"bytes": sum(len(part) for part in iter(lambda: request.stream.read(1 << 20), b""))}
