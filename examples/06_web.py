"""A web application whose state is an actor: Starlette on Hypercorn's Trio worker, in one nursery with the actors.

Run: python examples/06_web.py
Needs: pip install starlette hypercorn httpx
"""

from __future__ import annotations

import contextlib

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import prime
from prime import Actor, Ask, Ref, on
from prime.errors import DeadlineError


@prime.message
class Visit(Ask[int]):
    """Counts a visit; the answer is how many there were."""

    page: str


class Visits(Actor[Visit]):
    """Every request asks it, and it handles one message at a time: no lock, no lost update."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @on(Visit)
    def visit(self, m: Visit) -> int:
        if m.page == "crash":
            raise ValueError("a page that crashes its actor")
        self.counts[m.page] = self.counts.get(m.page, 0) + 1
        return self.counts[m.page]


def web(visits: Ref[Visit]) -> Starlette:
    """Make the application: its routes hold a ref, as they would hold a database's pool."""

    async def show(request: Request) -> Response:
        page = request.path_params["page"]
        try:
            count = await visits.ask(Visit(page), timeout=2)
        except DeadlineError as error:
            return JSONResponse({"error": str(error)}, status_code=504)
        except prime.PrimeError as error:
            return JSONResponse({"error": str(error), "hint": error.hint}, status_code=503)
        return JSONResponse({"page": page, "visits": count})

    return Starlette(routes=[Route("/{page}", show)])


async def main() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    async with (
        prime.open_system() as system,
        system.supervisor("app", restart=prime.Restart(max=5, backoff=(0.01, 0.1))) as app,
        trio.open_nursery() as nursery,  # ends before the actors do: no request meets a dead one
    ):
        visits = await app.spawn(Visits, "visits")
        closing = trio.Event()
        (address, *_) = await nursery.start(
            lambda task_status: serve(web(visits), config, shutdown_trigger=closing.wait, task_status=task_status)
        )
        try:
            await browse(address)
        finally:
            closing.set()
    print("closed")


async def browse(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=10, trust_env=False) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.get, "/home")
        print("twenty at once, then:", (await client.get("/home")).json())
        crash = await client.get("/crash")
        print(crash.status_code, crash.json()["error"])
        print("and it is back:", (await client.get("/home")).json())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(main)
