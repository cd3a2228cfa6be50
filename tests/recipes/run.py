"""Runs the fenced commands of the documents, page by page, block by block: see README.md beside it.

# Invariants

- Every fenced block of a page is run, read as settings, or named in `elsewhere.toml` with the place that runs it. A block of
  which nothing is known fails the run, and so does a line of `elsewhere.toml` that names no block.
- The blocks of a page run in the order in which they stand, on one set of servers.
- A page leaves nothing: its processes end with it, and what it wrote outside its folder was never there for others.
"""

import concurrent.futures
import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BLOCK_SECONDS = 120
LAST_OUTPUT = 4000

# PROTOCOL.md's frames are tested by khala-core/tests/documentation.rs, and the programs of clients.md by scripts/clients.
NOT_PAGES = {"CHANGELOG.md", "PROTOCOL.md", "docs/clients.md"}
# Not commands: figures and pictures; the language of a block says which.
NO_COMMANDS = {"text", "json", "http"}


class Wrong(Exception):
    """What is wrong with a page, as its reader should be told."""


@dataclass
class Block:
    page: str
    line: int
    language: str
    options: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.lstrip().split("\n", 1)[0].strip()


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
    return sorted(set(str(path.relative_to(ROOT)) for path in found) - NOT_PAGES)


def blocks(page: str) -> list[Block]:
    found, open_block, fence = [], None, ""
    for number, line in enumerate((ROOT / page).read_text().split("\n"), 1):
        opening = re.match(r"^( *)(`{3,})(.*)$", line)
        if open_block is None and opening:
            indent, fence, info = opening.groups()
            # Rust's options are separated by commas, ours by spaces. rustdoc, which reads README.md, knows no `=` in them.
            words = info.split()
            language = words[0].split(",")[0] if words else ""
            options = dict(word.partition(":")[::2] for word in words[1:])
            open_block = Block(page, number, language, options, "")
        elif open_block is not None and line.strip() == fence:
            found.append(open_block)
            open_block = None
        elif open_block is not None:
            open_block.text += line.removeprefix(indent) + "\n"
    return found


# --- What a block printed is compared by its shape. ---

# One word of each of these stands for any other: ids, hashes and tokens; numbers, times and sizes; names of temporary things.
VARIES = re.compile(r"eyJ[\w.…-]*|\b[0-9a-f]{8,}\b…?|\d(?:[\d.,:TZ_-]*\d)?Z?|…|\s+")


def shape(line: str) -> re.Pattern[str]:
    pattern, at = "", 0
    for varies in VARIES.finditer(line):
        pattern += re.escape(line[at : varies.start()])
        word = varies.group()
        if word.isspace():
            pattern += r"\s+"
        elif word == "…":
            pattern += ".*"
        elif word[0].isdigit() and not re.fullmatch(r"[0-9a-f]{8,}…?", word):
            pattern += r"\d[\d.,:TZ_-]*"
        else:
            pattern += r"[\w.…-]+"
        at = varies.end()
    return re.compile(pattern + re.escape(line[at:]))


def differs(expected: list[str], printed: list[str], goes_on: bool) -> str | None:
    """The first line that was not printed as the page has it. A line `…` stands for any number of lines."""
    at, anywhere = 0, False
    for line in expected:
        if line.strip() == "…":
            anywhere = True
            continue
        wanted = shape(line.rstrip())
        while at < len(printed) and anywhere and not wanted.fullmatch(printed[at].rstrip()):
            at += 1
        if at >= len(printed) or not wanted.fullmatch(printed[at].rstrip()):
            return f"the page has\n    {line}\nand this was printed:\n    " + "\n    ".join(printed[at : at + 12])
        at, anywhere = at + 1, False
    if at < len(printed) and not anywhere and not goes_on:
        return "this was printed, and the page does not have it:\n    " + "\n    ".join(printed[at:])
    return None


# --- A block is a script. ---


@dataclass
class Command:
    text: str
    printed: list[str] = field(default_factory=list)


def dialogue(text: str) -> list[Command]:
    """The commands of a `console` block, each with what the page says that it prints."""
    commands: list[Command] = []
    continued = False
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif not commands:
            raise Wrong("a console block begins with `$ ` and a command")
        elif continued or (line.startswith("> ") and not commands[-1].printed) or line == ">":
            commands[-1].text += "\n" + (line if continued else line[2:])
        else:
            commands[-1].printed.append(line)
            continue
        continued = line.endswith("\\")
    return commands


END = "\036end of command"


class Page:
    """One page at work, in a folder and in namespaces of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.work = folder / "work"
        self.hooks = HERE / "pages" / (Path(name).with_suffix(".sh").as_posix().replace("/", "-"))
        self.state = folder / "state.sh"
        self.state.write_text(f"cd {shlex.quote(str(self.work))}\n")
        self.count = 0
        self.readers: list[threading.Thread] = []

    def script(self, body: str, keep: bool = True) -> str:
        hooks = f"source {shlex.quote(str(self.hooks))}\n" if self.hooks.exists() else ""
        # What a block sets, the next one has: a reader has one terminal.
        saved = f'trap \'{{ export -p; printf "cd %q\\n" "$PWD"; }} >{shlex.quote(str(self.state))}\' EXIT\n' if keep else ""
        return (
            f"set -euo pipefail\nsource {shlex.quote(str(HERE / 'parts.sh'))}\n{hooks}"
            f"source {shlex.quote(str(self.state))}\n{saved}set -a\n{body}"
        )

    def start(self, body: str, keep: bool = True, terminal: bool = False) -> tuple[subprocess.Popen[bytes], Path]:
        self.count += 1
        script = self.folder / f"{self.count}.sh"
        script.write_text(self.script(body, keep))
        output = self.folder / f"{self.count}.out"
        out = output.open("wb", buffering=0)
        writes_to = out.fileno()
        if terminal:
            # What a page shows is what its reader sees, and commands print otherwise where nobody looks.
            reads_from, writes_to = pty.openpty()
            fcntl.ioctl(writes_to, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
            self.readers.append(threading.Thread(target=keep_what_is_shown, args=(reads_from, out), daemon=True))
            self.readers[-1].start()
        process = subprocess.Popen(
            ["bash", str(script)], stdin=subprocess.DEVNULL, stdout=writes_to, stderr=subprocess.STDOUT, start_new_session=True
        )
        if terminal:
            os.close(writes_to)
        return process, output

    def run(self, body: str, keep: bool = True, terminal: bool = False) -> str:
        process, output = self.start(body, keep, terminal)
        try:
            code = process.wait(timeout=BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Wrong(f"it did not end within {BLOCK_SECONDS} s; it printed\n{last(output)}") from None
        for thread in self.readers:
            thread.join(timeout=1)
        if code != 0:
            raise Wrong(f"it ended with {code}; it printed\n{last(output)}")
        return output.read_text(errors="replace")

    def hook(self, when: str, block: Block, file: Path) -> None:
        name = block.options.get("name")
        if name and self.has(f"{when}_{name}"):
            self.run(f"export BLOCK={shlex.quote(str(file))}\n{when}_{name}")

    def has(self, function: str) -> bool:
        return self.hooks.exists() and re.search(rf"^{function}\(\)", self.hooks.read_text(), re.M) is not None

    def block(self, block: Block) -> None:
        file = self.folder / f"block-{block.line}"
        file.write_text(block.text)
        self.hook("before", block, file)
        name = block.options.get("name", "")
        if self.has(f"instead_{name}"):
            self.run(f"export BLOCK={shlex.quote(str(file))}\ninstead_{name}")
        elif block.language == "console":
            self.console(block)
        elif block.language == "sh":
            self.run(f"source {shlex.quote(str(file))}\n")
        elif block.language in ("toml", "sql", "python", "ini"):
            self.run(f"export BLOCK={shlex.quote(str(file))}\nread_{block.language}")
        else:
            raise Wrong(f"nobody runs a block of `{block.language or 'no language'}`; tests/recipes/README.md says what can be done")
        self.hook("after", block, file)

    def console(self, block: Block) -> None:
        commands = dialogue(block.text)
        body = "".join(f"{command.text}\nprintf '\\n{END}\\n'\n" for command in commands)
        if "terminal" not in block.options:
            printed = self.run(body, terminal=True).split(END)
            for command, output in zip(commands, printed):
                if command.printed and (wrong := differs(command.printed, output.strip("\n").split("\n"), goes_on=False)):
                    raise Wrong(f"$ {command.text}\n{wrong}")
            return
        # A terminal of its own, in which the last command goes on: it has printed what the page has, or the page is wrong.
        process, output = self.start(body, keep=False, terminal=True)
        (self.folder / f"terminal-{block.options['terminal']}").write_text(str(output))
        (self.folder / f"terminal-{block.options['terminal']}.pid").write_text(str(process.pid))
        until = time.monotonic() + BLOCK_SECONDS / 2
        while True:
            lines = output.read_text(errors="replace").replace(END, "").strip("\n").split("\n")
            wrong = differs([line for command in commands for line in command.printed], lines, goes_on=True)
            if wrong is None:
                return
            if time.monotonic() > until or process.poll() not in (None, 0):
                raise Wrong(f"$ {commands[-1].text}\n{wrong}")
            time.sleep(0.05)


def keep_what_is_shown(terminal: int, out: IO[bytes]) -> None:
    """Writes a terminal's text to a file, without its colours, until nobody writes to it any more."""
    while True:
        try:
            shown = os.read(terminal, 65536)
        except OSError:
            shown = b""
        if not shown:
            out.close()
            os.close(terminal)
            return
        out.write(re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\r", b"", shown))


def last(output: Path) -> str:
    return output.read_text(errors="replace")[-LAST_OUTPUT:]


# --- A page is a machine of its own. ---


def machine(folder: Path) -> None:
    """Makes the folders that a recipe writes to this page's own. Called in namespaces of mounts, network and processes."""

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    copy, local, before = folder / "etc", folder / "usr-local-bin", folder / "usr-local-bin.before"
    for path in (copy, local, before):
        path.mkdir()
    subprocess.run(f"cp -a /etc/. {copy} 2>/dev/null", shell=True, check=False)
    mount("--bind", "/usr/local/bin", str(before))
    for program in before.iterdir():
        (local / program.name).symlink_to(program)
    mount("--bind", str(local), "/usr/local/bin")
    mount("--bind", str(copy), "/etc")
    for path in ("/run", "/var/lib", "/var/log"):
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", path)
    # A page asks for what it wants of the network: names are those of its examples.
    (copy / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    work = folder / "work"
    work.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in ("deploy", "target", ".git"):
            (work / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "deploy", work / "deploy")
    programs = folder / "bin"
    release = work / "target" / "release"
    release.mkdir(parents=True)
    programs.mkdir()
    for program in ("khala", "khala-server"):
        (release / program).symlink_to(Path(os.environ["RECIPES_BIN"]).resolve() / program)
        (programs / program).symlink_to(release / program)
    for stand_in in (HERE / "bin").iterdir():
        (programs / stand_in.name).symlink_to(stand_in)
    for name in [name for name in os.environ if name.startswith("KHALA_")]:
        del os.environ[name]
    home = folder / "home"
    home.mkdir()
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = [str(programs), os.environ["PATH"], "/usr/sbin", "/sbin", *map(str, postgres[-1:])]
    os.environ.update(PATH=":".join(path), HOME=str(home), LC_ALL="C.UTF-8", NO_COLOR="1", RECIPES=str(folder), REPOSITORY=str(ROOT))
    os.environ["PYTHON"] = sys.executable


def run_page(name: str, folder: Path) -> int:
    """Inside its namespaces: runs a page, and says for each block how it went."""
    elsewhere = {(row["page"], row["block"]): row for row in listed()}
    folder.chmod(0o755)
    machine(folder)
    page = Page(name, folder)
    try:
        if page.has("prepare"):
            page.run("prepare")
    except Wrong as wrong:
        print(f"FAILED {name}, prepare: {wrong}")
        return 1
    for block in blocks(name):
        if block.language in NO_COMMANDS or (name, block.first_line) in elsewhere:
            continue
        began = time.monotonic()
        try:
            page.block(block)
        except Wrong as wrong:
            print(f"FAILED {block.place}: {wrong}")
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{last(log)}")
            return 1
        print(f"    {block.place} {block.language} {block.options.get('name', '')} {time.monotonic() - began:.1f} s")
    return 0


def listed() -> list[dict[str, str]]:
    return tomllib.loads((HERE / "elsewhere.toml").read_text())["block"]


def check_the_list() -> list[str]:
    there = {(block.page, block.first_line): block for page in pages() for block in blocks(page)}
    wrong = [f"elsewhere.toml names a block that {row['page']} does not have: {row['block']}" for row in listed() if (row["page"], row["block"]) not in there]
    return wrong


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and most renderers make them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading)).lower().replace(" ", "-") for heading in headings}


def broken_links() -> list[str]:
    """Links within the repository that lead nowhere."""
    broken = []
    for page in sorted({*pages(), *(name for name in NOT_PAGES if (ROOT / name).exists())}):
        text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            if not target.exists():
                broken.append(f"{page} links to {link}, which is not there")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
                broken.append(f"{page} links to {link}, and there is no such heading")
    return broken


def main() -> int:
    if sys.argv[1:2] == ["--page"]:
        return run_page(sys.argv[2], Path(sys.argv[3]))
    chosen = sys.argv[1:] or pages()
    wrong = check_the_list() + broken_links()
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    as_root = [] if os.geteuid() == 0 else ["sudo", "--preserve-env=PATH,RECIPES_BIN"]

    def one(page: str) -> subprocess.CompletedProcess[str]:
        # The shell is the first process of the namespace: it buries those whose parents have gone.
        folder = tempfile.mkdtemp(prefix="recipes-")
        shell = ["bash", "-c", '"$@" & wait $!', "bash"]
        command = [*as_root, *namespaces, *shell, sys.executable, str(Path(__file__)), "--page", page, folder]
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        finally:
            # What a page mounted in it went with its namespace; if it had not, it would stay.
            subprocess.run([*as_root, "rm", "-rf", "--one-file-system", "--", folder], check=False)

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for page, done in zip(chosen, pool.map(one, chosen)):
            print(f"{page}\n{done.stdout}", end="", flush=True)
            if done.returncode != 0:
                wrong.append(f"{page} failed")
    print("Run elsewhere, and not here:")
    for row in listed():
        if row["page"] in chosen:
            print(f"    {row['page']}, {row['block']}: {row['by']}")
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
