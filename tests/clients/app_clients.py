"""What real clients are pointed at."""

from __future__ import annotations

import asyncio

from werkzeug.wrappers import Response

import zserve as serve

REPORTED: list[str] = []

PAGE = """<!doctype html><title>clients</title><p id=said></p><script>
const got = [];
const source = new EventSource("/events");
source.onmessage = async event => {
  got.push(event.lastEventId + "=" + event.data);
  if (got.length < 3) return;
  source.close();
  const posted = await fetch("/echo", {method: "POST", body: JSON.stringify({got}),
                                       headers: {"content-type": "application/json"}});
  const form = new FormData();
  form.append("file", new Blob(["from the browser"]), "a.txt");
  const uploaded = await fetch("/upload", {method: "POST", body: form});
  const said = [JSON.stringify((await posted.json()).json), (await uploaded.json()).file];
  await fetch("/report", {method: "POST", body: said.join(" ")});
};
</script>"""


@serve.route("/hello")
def hello(request):
    return f"hello {request.args.get('name', 'world')}"


@serve.route("/echo", methods=["POST"])
def echo(request):
    return {"size": len(request.get_data()), "json": request.get_json(silent=True), "type": request.content_type}


@serve.route("/upload", methods=["POST"])
def upload(request):
    return {"file": request.files["file"].read().decode(), "name": request.files["file"].filename}


@serve.route("/events")
async def events():
    async def produce():
        for number in range(3):
            yield f"id: {number}\ndata: tick {number}\n\n"
            await asyncio.sleep(0.01)
        await asyncio.sleep(60)  # it stays open, as such streams do

    return produce(), 200, {"content-type": "text/event-stream", "cache-control": "no-cache"}


@serve.route("/lines")
def lines():
    for number in range(1000):
        yield f"line {number}\n"


@serve.route("/cookies")
def cookies(request):
    response = Response(f"had {request.cookies.get('seen', 'none')}")
    response.set_cookie("seen", "yes")
    return response


@serve.route("/fails")
def fails():
    raise RuntimeError("on purpose")


@serve.route("/page")
def page():
    return Response(PAGE, mimetype="text/html")


@serve.route("/report", methods=["GET", "POST"])
def report(request):
    if request.method == "POST":
        REPORTED.append(request.get_data(as_text=True))
    return REPORTED


@serve.route("/typed/{n:int}/{name}", methods=["GET", "POST", "PUT"])
def typed(request, n, name):
    """Checks what it is given, and raises nothing but what werkzeug raises for a body that is none."""
    if request.method == "GET":
        return {"n": n, "name": name, "args": request.args.to_dict(flat=False)}
    given = request.get_json(silent=True)
    if not isinstance(given, dict) or type(given.get("count")) is not int:
        return {"error": "count must be a whole number"}, 400
    return {"n": n, "name": name, "count": given["count"], "form": request.form.to_dict(), "all": given}
