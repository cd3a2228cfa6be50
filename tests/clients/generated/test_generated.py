"""Clients that generators make of a running server's /openapi.json.

Their types are checked, and the programs of docs/clients.md run.
"""

import asyncio
import importlib.metadata
import json
import os
import shutil
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

from khala import TARGET, Server, blocks, put_table  # noqa: E402

TOPIC = "orders/7"  # A `/` within a topic is one of the things that clients have to write as it is meant.
PATH = os.pathsep.join([str(HERE / "node_modules/.bin"), str(Path(sys.executable).parent), os.environ["PATH"]])


class Failed(AssertionError):
    pass


async def run(folder, *command, **environment):
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={"PATH": PATH, "HOME": os.environ.get("HOME", "/"), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out = (await process.communicate())[0].decode()
    if process.returncode:
        raise Failed(f"{command} ended with {process.returncode}: {out}")
    return out


class Generated:
    def __init__(self, generator, language):
        self.folder = TARGET / "clients/generated" / generator
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, text in {**blocks("sh"), **blocks(language)}.items():
            if name.startswith(f"{generator}/"):
                (self.folder / name.split("/")[-1]).write_text(text)

    async def generate(self, server):
        return await run(self.folder, "bash", "-e", "generate.sh", KHALA_URL=server.url)

    async def orders(self, server, *command):
        token = await server.token("read", "publish", ttl="1h")
        said = await run(self.folder, *command, KHALA_URL=server.url, TOKEN=token, TOPIC=TOPIC)
        return said.splitlines()


async def typescript():
    server = await Server.start()
    try:
        made = Generated("openapi-typescript", "ts")
        (made.folder / "node_modules").symlink_to(HERE / "node_modules")
        (made.folder / "package.json").write_text('{"type":"module"}')
        await made.generate(server)
        options = "--strict --target es2022 --module nodenext --skipLibCheck false --exactOptionalPropertyTypes".split()
        await run(made.folder, "tsc", *options, "orders.ts", "khala.d.ts")
        said = await made.orders(server, "node", "orders.js")
        assert said == [
            "stored at 1",
            "stored at 2 to 3",
            "409 conflict: expected 1, found 3",
            '1 placed {"n":1}',
            '2 placed {"n":2}',
            '3 placed {"n":3}',
            "order/1,order/2,order/3 at 3",
            "410 stale_cursor: epoch_mismatch, begin with /v1/topics/orders%2F7/snapshot",
        ], said
        version = {name: package(name)["version"] for name in ("openapi-typescript", "openapi-fetch", "typescript")}
        clients = f"`openapi-typescript` {version['openapi-typescript']}, `openapi-fetch` {version['openapi-fetch']}"
        return {"generator": clients, "types": f"`tsc` {version['typescript']}, strict"}
    finally:
        await server.stop()


def package(name):
    return json.loads((HERE / "node_modules" / name / "package.json").read_text())


async def python():
    server = await Server.start()
    try:
        made = Generated("openapi-python-client", "python")
        said = await made.generate(server)
        # What takes lines of JSON has no type there; nothing else is left out.
        left_out = {line.removeprefix("WARNING parsing ") for line in said.splitlines() if line.startswith("WARNING parsing")}
        assert left_out == {
            "POST /sync/v1/longpoll within sync. Endpoint will not be generated.",
            "POST /v1/topics/{topic}/updates within updates.",
            "POST /v1/updates within updates. Endpoint will not be generated.",
        }, said
        assert said.count("Unsupported content type application/x-ndjson") == len(left_out), said
        await run(made.folder, sys.executable, "-m", "mypy", "--strict", "orders.py", "khala_client")
        said = await made.orders(server, sys.executable, "orders.py")
        assert said == [
            "stored at 1",
            "stored at 2 to 3",
            "409 conflict: expected 1, found 3",
            "1 placed {'n': 1}",
            "2 placed {'n': 2}",
            "3 placed {'n': 3}",
            "['order/1', 'order/2', 'order/3'] at 3",
            "410 stale_cursor: ['epoch_mismatch'], begin with /v1/topics/orders%2F7/snapshot",
        ], said
        version = importlib.metadata.version
        return {
            "generator": f"`openapi-python-client` {version('openapi-python-client')}",
            "types": f"`mypy` {version('mypy')}, strict",
        }
    finally:
        await server.stop()


class Clients(unittest.TestCase):
    def test_programs_of_generated_clients_are_typed_and_run(self):
        rows = []
        for result in asyncio.run(both()):
            with self.subTest():
                if isinstance(result, BaseException):
                    raise result
                rows.append({**result, "publish": "yes", "history": "yes", "snapshot": "yes", "409": "typed", "410": "typed"})
        if len(rows) == 2:
            put_table("generated clients", rows)


async def both():
    return await asyncio.gather(typescript(), python(), return_exceptions=True)


if __name__ == "__main__":
    unittest.main()
