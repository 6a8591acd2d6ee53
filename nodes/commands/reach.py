"""From what people give as --address to a router that answers: a router, or the URL of any gateway."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from zserve.errors import FabricUnreachable, ServeError

if TYPE_CHECKING:
    from zserve.control.client import ControlClient

__all__ = ["connect", "routers_of"]

TOKEN_VARIABLE = "ZSERVE_TOKEN"
"""A token for gateways that ask for one."""
_PAGE_LIMIT = 1 << 20
_PAGE_TIMEOUT_S = 5.0
_EACH_TIMEOUT_S = 2.0
"""How long one of several routers may take to answer before the next one is asked."""

# Gateways are on this machine or in this network: never through a proxy of the environment.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def connect(address: str | None) -> ControlClient:
    """A client for the fabric at *address* (a router, or the http:// URL of a gateway), or for the only one of this
    user on this machine.

    Raises :class:`click.BadParameter` for something that is no address, :class:`FabricUnreachable` where a gateway does
    not answer or none of its routers does.
    """
    from zserve.control.client import ControlClient, normal_address

    from ..run_directory import the_only_fabric

    if address is None:
        return ControlClient(the_only_fabric().address)
    if address.startswith(("http://", "https://")):
        return _first_that_answers(address, routers_of(address))
    try:
        return ControlClient(normal_address(address))
    except ValueError as error:
        raise click.BadParameter(
            f"{error}; a gateway's http://host:port will do, too", param_hint="--address"
        ) from None


def routers_of(url: str) -> list[str]:
    """The routers that the gateway at *url* knows.  Raises :class:`FabricUnreachable`."""
    parts = urllib.parse.urlsplit(url)
    page = f"{parts.scheme}://{parts.netloc}/-/fabric"
    try:
        with _opener.open(_asking(page), timeout=_PAGE_TIMEOUT_S) as answer:
            said = json.loads(answer.read(_PAGE_LIMIT))
        routers = [address for address in said["routers"] if isinstance(address, str)]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise FabricUnreachable(f"{page} asks for a token; put yours into {TOKEN_VARIABLE}") from None
        raise FabricUnreachable(f"{page} answers {error.code}; is that the URL of a zserve gateway?") from None
    except (KeyError, TypeError, ValueError):
        raise FabricUnreachable(f"{page} does not answer as a zserve gateway") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FabricUnreachable(f"no gateway answers at {url}: {reason}") from None
    if not routers:
        raise ServeError(f"the gateway at {url} is not linked with any router at the moment; try again")
    return routers


def _asking(page: str) -> urllib.request.Request:
    request = urllib.request.Request(page)
    if token := os.environ.get(TOKEN_VARIABLE):
        request.add_header("Authorization", f"Bearer {token}")
    return request


def _first_that_answers(url: str, routers: Sequence[str]) -> ControlClient:
    from zserve.control.client import ControlClient

    said = []
    for address in routers:
        client = ControlClient(address, connect_timeout_s=_EACH_TIMEOUT_S)
        try:
            client.call("list_endpoints")
            return client
        except (FabricUnreachable, ValueError) as error:
            said.append(str(error))
            client.close()
    raise FabricUnreachable(f"no router that the gateway at {url} names can be reached from here: {'; '.join(said)}")
