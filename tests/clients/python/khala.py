"""A khala-server of a test's own: a process in a folder of its own, on a free port, which can be killed and started again.

Also the backend of an application that gives tokens, and the programs of docs/clients.md as they stand on the page.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
BINARIES = Path(os.environ.get("KHALA_BIN_DIR", TARGET / "debug"))
PAGE = ROOT / "docs/clients.md"


def blocks(language):
    """The blocks of the page by the names of their files."""
    found = re.findall(rf"^```{language} file=(\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(dict(found)) == len(found), f"{PAGE} has a file twice"
    return dict(found)


def put_table(name, rows):
    """Compares the table with that of the page, or writes it there with KHALA_CLIENTS_WRITE=1."""
    begins, ends = (f"<!-- the table of the {name} {word} -->\n" for word in ("begins", "ends"))
    page = PAGE.read_text()
    before, rest = page.split(begins)
    found, after = rest.split(ends)
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if os.environ.get("KHALA_CLIENTS_WRITE"):
        PAGE.write_text(before + begins + table + ends + after)
    else:
        assert found == table, f"{PAGE} is not current: scripts/clients --write\n{table}"


async def until(what, look, seconds=30):
    """Waits until `look` gives something; a thing that never comes fails with what it was."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if loop.time() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        await asyncio.sleep(0.03)


def free_port():
    """Below the ports that the system gives to outgoing connections: nothing takes it while the server is down."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def ask(url, method="GET", headers=None, body=None):
    """Status and body of an answer."""
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


class Process:
    """A process that is killed with this one, and what it said."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    @classmethod
    async def start(cls, log, *command, **options):
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(*map(str, command), stdout=out, stderr=out, **options)
        return cls(process, log)

    def said(self):
        return self.log.read_text()[-3_000:]

    async def kill(self):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


class Server:
    @classmethod
    async def start(cls, **settings):
        self = cls()
        self.folder = Path(tempfile.mkdtemp(prefix="khala-clients-"))
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "KHALA_LISTEN": self.address,
            "KHALA_DATABASE": str(self.folder / "khala.db"),
            "KHALA_AUTH__HS256_KEY": secrets.token_hex(32),
            "KHALA_JWT__LEEWAY_SECONDS": "0",
            **settings,
        }
        await self.run()
        self.publisher = await self.token("publish", ttl="1h")
        return self

    async def run(self):
        log = self.folder / "log"
        self.process = await Process.start(log, BINARIES / "khala-server", cwd=self.folder, env=self.environment)
        await until(self.process.said, self.is_ready)

    async def is_ready(self):
        try:
            return (await asyncio.to_thread(ask, f"{self.url}/readyz"))[0] == 200
        except OSError:
            return False

    async def kill(self):
        await self.process.kill()

    def wipe(self):
        """The database is gone, as after a restore of nothing."""
        for file in self.folder.glob("khala.db*"):
            file.unlink()

    async def stop(self):
        await self.kill()
        shutil.rmtree(self.folder)

    async def token(self, *scopes, ttl="5s", sub="someone"):
        return await asyncio.to_thread(self.token_now, *scopes, ttl=ttl, sub=sub)

    def token_now(self, *scopes, ttl, sub, key=None):
        environment = {**self.environment, **({"KHALA_AUTH__HS256_KEY": key} if key else {})}
        command = [BINARIES / "khala", "token", "--sub", sub, "--ttl", ttl, *(f"--scope={scope}" for scope in scopes)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    async def publish(self, topic, update):
        """Publishes, however often the server is killed meanwhile, and gives the receipt."""
        headers = {
            "Authorization": f"Bearer {self.publisher}",
            "Content-Type": "application/json",
            "Idempotency-Key": secrets.token_hex(8),
        }
        body = json.dumps(update).encode()
        fault = None
        for _ in range(400):
            try:
                status, text = await asyncio.to_thread(ask, f"{self.url}/v1/topics/{topic}/updates", "POST", headers, body)
                if status in (200, 201):
                    return json.loads(text)
                fault = text
            except OSError as error:
                fault = error
            await asyncio.sleep(0.03)
        raise AssertionError(f"not published: {fault}")

    async def metric(self, name, *labels):
        """The sum of the series of a metric whose labels hold all of `labels`."""
        _, text = await asyncio.to_thread(ask, f"{self.url}/metrics")
        series = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in series if all(label in line for label in labels))


class Backend:
    """The application's backend, which gives tokens of five seconds, and none while it is held."""

    def __init__(self, server, *scopes, key=None):
        backend = self
        self.held = False

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                token = None if backend.held else server.token_now(*scopes, ttl="5s", sub="someone", key=key)
                self.send_response(200 if token else 503)
                self.end_headers()
                with contextlib.suppress(OSError):  # The program was killed meanwhile.
                    self.wfile.write((token or "").encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/token"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
