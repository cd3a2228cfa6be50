"""The Python programs of docs/clients.md, each against a server of its own, side by side: they wait more than they work.

Each goes through everything that the page says: two kills of the server and one of the program, tokens of 5 s, 2 MB at once, and
a database that was deleted. In other runs a token is bad or opens nothing, the topic cannot be, and a batch is lost on the way.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import sys
import unittest

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from khala import TARGET, Backend, Process, Server, blocks, put_table, until


class Client:
    """A package, and its version: that of requirements.txt, or another one in a folder of its own."""

    def __init__(self, name, packages=None):
        self.name, self.packages = name, packages
        path = {"path": [packages]} if packages else {}
        self.version = next(importlib.metadata.distributions(name=name, **path)).version

    def __str__(self):
        return f"{self.name}-{self.version}"


CLIENTS = [
    Client("websockets"),
    Client("websockets", str(TARGET / "clients/websockets")),
    Client("realtime"),
    Client("phoenix-channels-python-client"),
]
TOPIC = "orders:7"
logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # A program asks `Lossy` over HTTP, too.
BEFORE = 40
STREAMED = 90
LARGE = 8
LARGE_BYTES = 256 * 1024


class Published:
    """What was published, by seq, and whether what a program keeps is right by it."""

    def __init__(self, server):
        self.server, self.updates, self.epoch = server, [], None

    @property
    def head(self):
        return len(self.updates)

    async def next(self, **fields):
        n = self.head + 1
        update = {"kind": "placed", "payload": {"n": n, "text": "é\u2028 \U0001f600"}, "doc_key": f"order/{n % 10}", **fields}
        if n % 7 == 0:
            del update["doc_key"]
        receipt = await self.server.publish(TOPIC, update)
        assert receipt["first"] == n, receipt
        self.epoch = receipt["epoch"]
        self.updates.append(update)

    def check(self, kept):
        """The feed ends at the cursor without a hole, and the documents are those of the whole log up to there."""
        at, feed = kept["cursor"]["after"], kept["feed"]
        assert [update["seq"] for update in feed] == list(range(at - len(feed) + 1, at + 1)), "the feed has a hole"
        for update in feed:
            assert update["payload"] == self.updates[update["seq"] - 1]["payload"], f"update {update['seq']} is another"
        documents = {}
        for seq, update in enumerate(self.updates[:at], 1):
            if "doc_key" in update:
                documents[update["doc_key"]] = {"seq": seq, "payload": update["payload"]}
        newer = {key for key, document in kept["documents"].items() if document["seq"] > at}
        assert {k: v for k, v in kept["documents"].items() if k not in newer} == {
            k: v for k, v in documents.items() if k not in newer
        }, "the documents are not those of the log"
        return at - len(feed)


class Lossy:
    """What stands between a program and its server, and loses a batch where it is told to."""

    def __init__(self, server):
        self.server, self.lose = server, False

    async def __aenter__(self):
        self.listening = await serve(self.pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.listening.close()

    async def pass_on(self, socket):
        sent = socket.request.headers
        headers = {"Authorization": sent["Authorization"]} if "Authorization" in sent else {}
        url = self.server.url.replace("http", "ws", 1) + socket.request.path
        async with connect(url, additional_headers=headers) as upstream:
            ways = [asyncio.create_task(self.carry(*way)) for way in ((socket, upstream), (upstream, socket))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()

    async def carry(self, from_, to):
        with contextlib.suppress(ConnectionClosed):
            async for text in from_:
                if self.lose and "sync:update_batch" in text:
                    self.lose = False
                else:
                    await to.send(text)


class Program:
    """A program of the page in a process of its own."""

    def __init__(self, client, server, *scopes, folder=None, url=None, topic=TOPIC, key=None):
        self.client, self.backend = client, Backend(server, *scopes, key=key)
        self.folder = TARGET / "clients/python" / (folder or str(client))
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.iterdir():
            if old.is_file():
                old.unlink()
        page = blocks("python")
        for file in ("kept_topic.py", "fresh_token.py", f"{client.name}/follow.py"):
            (self.folder / file.split("/")[-1]).write_text(page[file])
        self.state = self.folder / "state.json"
        self.environment = {
            "PATH": os.environ["PATH"],
            "KHALA_URL": url or server.url,
            "TOKEN_URL": self.backend.url,
            "TOPIC": topic,
            "STATE_FILE": str(self.state),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": client.packages or "",
        }

    async def start(self):
        command = [sys.executable, "follow.py"]
        self.process = await Process.start(self.folder / "log", *command, cwd=self.folder, env=self.environment)

    def kept(self):
        return json.loads(self.state.read_text()) if self.state.exists() else {"cursor": None}

    async def stop(self):
        await self.process.kill()
        self.backend.stop()


async def follow(client):
    server = await Server.start()
    program, published = Program(client, server, "read"), Published(server)
    row = {}

    async def caught_up():
        def at_head():
            assert program.process.process.returncode is None, f"the program ended: {program.process.said()}"
            kept = program.kept()
            cursor = kept["cursor"]
            # The server may have sent what the publisher is not told of yet.
            if not cursor or cursor["epoch"] != published.epoch or cursor["after"] > published.head:
                return None
            since = published.check(kept)
            return (since, kept) if cursor["after"] == published.head else None

        return await until(lambda: f"{program.kept()['cursor']} of {published.head}: {program.process.said()}", at_head)

    async def stream(count):
        for _ in range(count):
            await asyncio.gather(published.next(), asyncio.sleep(0.1))

    async def restart():
        await server.kill()
        await server.run()

    try:
        for _ in range(BEFORE):
            await published.next()
        await program.start()
        since, _ = await caught_up()
        assert since == BEFORE, "it began with a snapshot"
        for _ in range(2):
            await stream(10)
            await asyncio.gather(restart(), stream(15))
            since, kept = await caught_up()
            assert since == BEFORE, "the feed began anew"

        await program.process.kill()
        for n in range(LARGE):
            await published.next(payload={"n": n, "text": f"{n}" * LARGE_BYTES}, doc_key=f"large/{n}")
        joins = await server.metric("khala_joins_total")
        await program.start()
        since, kept = await caught_up()
        assert since == BEFORE, "the feed began anew"
        assert await server.metric("khala_joins_total", 'resume="cursor"') >= 1
        assert await server.metric("khala_joins_total") == joins + 1, "one connection was enough for all of it"
        row["after a restart"] = "kept, resumed"

        # Longer than a token is good: a connection that was not closed for it got another one in time.
        renewed = await server.metric("khala_refreshes_total")
        await stream(30)
        await until("it renews its token", lambda: later(server, "khala_refreshes_total", renewed + 2))
        since, kept = await caught_up()
        assert await server.metric("khala_joins_total") == joins + 1
        assert await server.metric("khala_closes_total", 'reason="token_expired"') == 0
        row["token renewed"] = "while open"

        program.backend.held = True
        await until(
            "its connection ends with its token", lambda: later(server, "khala_closes_total", 1, 'reason="token_expired"')
        )
        await stream(10)
        program.backend.held = False
        since, kept = await caught_up()
        row["token ended"] = "came back"
        assert published.head == BEFORE + STREAMED + LARGE
        row["every update"] = f"{kept['cursor']['after'] - since} of {STREAMED + LARGE}"

        # Without its state: all documents, which are 2 MB, as a snapshot.
        await program.process.kill()
        program.state.unlink()
        await program.start()
        since, _ = await caught_up()
        assert since == published.head
        row["2 MB at once"] = "as updates, as a snapshot"

        await server.kill()
        server.wipe()
        await server.run()
        published.updates = []
        for n in range(10):
            await published.next(payload={"n": n, "text": "another history"})
        await caught_up()
        for _ in range(5):
            await published.next()
        await caught_up()
        assert await server.metric("khala_stale_cursors_total") == 1
        row["stale cursor"] = "began again once"
        return row
    except BaseException as fault:
        fault.add_note(f"{client} said: {program.process.said()}")
        raise
    finally:
        await program.stop()
        await server.stop()


async def later(server, name, least, *labels):
    return await server.metric(name, *labels) >= least


async def hole(client):
    """A program that misses a batch sees it by the next one, and connects again with its cursor."""
    server = await Server.start()
    async with Lossy(server) as lossy:
        program, published = Program(client, server, "read", folder=f"{client}-hole", url=lossy.url), Published(server)

        def caught_up():
            cursor = program.kept()["cursor"]
            return cursor and cursor["after"] == published.head

        try:
            await published.next()
            await program.start()
            for _ in range(3):
                await until(program.process.said, caught_up)
                lossy.lose = True
                await published.next()
                await until("a batch is lost", lambda: not lossy.lose)
                assert not caught_up()
                await published.next()
            await until(program.process.said, caught_up)
            assert published.check(program.kept()) == 1
            assert await server.metric("khala_joins_total") == 4
        finally:
            await program.stop()
            await server.stop()


class Checker(unittest.TestCase):
    """The checker bites."""

    def setUp(self):
        self.published = Published(None)
        self.published.updates = [{"payload": n, "doc_key": f"order/{n % 2}"} for n in range(4)]
        feed = [{"seq": seq, "kind": "placed", "payload": seq - 1} for seq in (2, 3, 4)]
        documents = {"order/0": {"seq": 3, "payload": 2}, "order/1": {"seq": 4, "payload": 3}}
        self.kept = {"cursor": {"after": 4}, "documents": documents, "feed": feed}

    def test_what_is_right_passes(self):
        self.assertEqual(self.published.check(self.kept), 1)

    def test_a_missing_a_double_and_another_update_are_found(self):
        feed = self.kept["feed"]
        for bad in (feed[:1] + feed[2:], feed[:2] + feed[1:], feed[::-1], feed[:-1], [*feed[:2], {**feed[2], "payload": 9}]):
            with self.assertRaises(AssertionError):
                self.published.check({**self.kept, "feed": bad})

    def test_a_missing_and_an_older_document_are_found(self):
        good = self.kept["documents"]
        for bad in ({"order/0": good["order/0"]}, {**good, "order/0": {"seq": 1, "payload": 0}}):
            with self.assertRaises(AssertionError):
                self.published.check({**self.kept, "documents": bad})


REFUSALS = [
    ("khala:read", {"scopes": ["publish"]}),
    ("invalid_token", {"scopes": ["read"], "key": "0" * 64}),
    ("invalid_topic", {"scopes": ["read"], "topic": "orders 7"}),
]


async def refused(client):
    """A program whose token is bad or does not open the topic, or whose topic cannot be, ends and says why."""
    server = await Server.start()

    async def one(reason, scopes, **options):
        program = Program(client, server, *scopes, folder=f"{client}-{reason.replace(':', '-')}", **options)
        try:
            await program.start()
            code = await asyncio.wait_for(program.process.process.wait(), 20)
            said = program.process.said()
            assert code == 1 and reason in said.splitlines()[-1] and "Traceback" not in said, f"{client} ended with {code}: {said}"
        finally:
            await program.stop()

    try:
        for reason, options in REFUSALS:
            await one(reason, **options)
    finally:
        await server.stop()


async def all_of_them():
    runs = [scenario(client) for scenario in (follow, refused, hole) for client in CLIENTS]
    return await asyncio.gather(*runs, return_exceptions=True)


class Clients(unittest.TestCase):
    def test_every_program_has_every_update_once_and_in_order(self):
        rows = []
        for client, result in zip(CLIENTS * 3, asyncio.run(all_of_them()), strict=True):
            with self.subTest(str(client)):
                if isinstance(result, BaseException):
                    raise result
                if result:
                    rows.append({"client": f"`{client.name}` {client.version}", **result})
        if len(rows) == len(CLIENTS):
            order = ["client", "every update", "after a restart", "token renewed", "token ended", "2 MB at once", "stale cursor"]
            put_table("Python clients", [{column: row[column] for column in order} for row in rows])


if __name__ == "__main__":
    unittest.main()
