"""``/v1/fleet`` and ``/v1/models``."""

import re
from typing import Any, Final

from aiohttp import web

from berlin_worker.gateway.gateway import GATEWAY, need
from berlin_worker.gateway.problems import Problem

routes: Final = web.RouteTableDef()

_PATTERN: Final = re.compile(r"[*?\[]")


@routes.get("/v1/fleet")
async def fleet(request: web.Request) -> web.Response:
    """Return the fleet as the JSON object that `berlin top --json` prints."""
    need(request, "fleet")
    return web.json_response((await request.app[GATEWAY].fleet.read()).as_json())


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List the models that the caller may name, of those that the gateway has found."""
    return web.json_response({"object": "list", "data": await _listed(request)})


@routes.get("/v1/models/{model:.+}")
async def model(request: web.Request) -> web.Response:
    """Return one of these models."""
    wanted = request.match_info["model"]
    for each in await _listed(request):
        if each["id"] == wanted:
            return web.json_response(each)
    raise Problem(404, "model_not_found", "no such model is known: see GET /v1/models")


async def _listed(request: web.Request) -> list[dict[str, Any]]:
    gateway, caller = request.app[GATEWAY], need(request, "submit")
    default = gateway.settings.default_provider
    # A model that a key names in full is listed even if no worker announces it.
    named = [name for name in caller.models if name and not _PATTERN.search(name)]
    found = await gateway.fleet.models()
    ids = {model for _, model in found} | {f"{provider}/{model}" for provider, model in found}
    found |= {(default, name) for name in named if name not in ids and "/" not in name}
    return [
        {"id": model, "object": "model", "created": 0, "owned_by": provider}
        # Models of the default provider come first: a request without a provider means them.
        for provider, model in sorted(found, key=lambda each: (each[0] != default, each))
        if caller.may_use(provider, model)
    ]
