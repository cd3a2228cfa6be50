"""Stands in for `docker` where there is none: runs a compose file's services as processes of this machine.

# Invariants

- A service gets the environment, the files, the command and the user of its compose file and its image. Each has an address of its own in
  the file's subnet, and is found under its name.
- A key of the compose file that this file neither does nor names in `CONTAINERS_ONLY` is an error, and so is an instruction of the
  Containerfile.
- One setting differs: the services share a network, so a node listens on its own address and not on all (`KHALA_LISTEN`).
"""

import ipaddress
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

RECIPES = Path(os.environ["RECIPES"])
STATE = RECIPES / "compose"
NOBODY = 65534
# What a container runtime alone can do.
CONTAINERS_ONLY = {"restart", "stop_grace_period", "read_only", "cap_drop", "security_opt", "ulimits", "networks"}
DONE = {"image", "build", "depends_on", "environment", "healthcheck", "ports", "volumes"}


def fail(text: str) -> None:
    sys.exit(f"docker.py: {text}")


def containerfile(path: Path, context: Path) -> dict[str, object]:
    """Reads a Containerfile, and checks of each step what can be checked without running it."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
    image: dict[str, object] = {"environment": {}}
    built: set[str] = set()
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            image["environment"] = {}
        elif instruction == "RUN":
            command = re.sub(r"--mount=\S+\s*", "", rest)
            subprocess.run(["bash", "-n", "-c", command], check=True)
            if cargo := re.search(r"cargo build (.*?)&&", command):
                packages = re.findall(r"-p (\S+)", cargo[1])
                for package in packages:
                    if not (context / package / "Cargo.toml").exists():
                        fail(f"{path}: there is no package {package}")
                built |= {f"/out/{Path(word).name}" for word in command.split() if word.startswith("target/release/")}
            if user := re.search(r"useradd .*--uid (\d+)", command):
                image["uid"] = user[1]
        elif instruction == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            for source in sources:
                if not (source in built if "--from=" in rest else (context / source).exists()):
                    fail(f"{path}: nothing makes {source}")
        elif instruction == "ENV":
            image["environment"] = dict(word.split("=", 1) for word in shlex.split(rest))
        elif instruction == "USER":
            if rest.split(":")[0] != image.get("uid"):
                fail(f"{path}: the user {rest} is not the one that was made")
        elif instruction == "HEALTHCHECK":
            image["healthcheck"] = json.loads(rest.partition(" CMD ")[2])
        elif instruction == "ENTRYPOINT":
            image["entrypoint"] = json.loads(rest)
        elif instruction not in ("WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL"):
            fail(f"{path}: it does not know {instruction}")
    return image


def compose(file: Path) -> dict[str, object]:
    variables = dict(line.split("=", 1) for line in (file.parent / ".env").read_text().splitlines() if line)

    def variable(found: re.Match[str]) -> str:
        if found[1] not in variables:
            fail(f"required variable {found[1]} is missing a value: {found[2]}")
        return variables[found[1]]

    text = re.sub(r"\$\{(\w+):\?([^}]*)\}", variable, file.read_text())
    description = yaml.safe_load(text)
    for name, service in description["services"].items():
        if unknown := set(service) - DONE - CONTAINERS_ONLY:
            fail(f"{file}: {name} has {', '.join(sorted(unknown))}, of which nothing is known")
    return description


def few_connections() -> list[str]:
    """Where this machine lets nobody open as many files as HAProxy's limit of connections needs, the limit is a lower one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ["-n", "4000"] if most < 65536 else []


class Services:
    def __init__(self, file: Path) -> None:
        self.file = file
        description = compose(file)
        self.services = description["services"]
        (network,) = description["networks"].values()
        subnet = ipaddress.ip_network(network["ipam"]["config"][0]["subnet"])
        self.addresses = dict(zip(self.services, list(subnet.hosts())[9:]))
        STATE.mkdir(exist_ok=True)
        if not (STATE / "up").exists():
            (STATE / "up").touch()
            with open("/etc/hosts", "a") as hosts:
                for name, address in self.addresses.items():
                    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
                    hosts.write(f"{address} {name}\n")

    def image(self, service: dict) -> dict[str, object]:
        build = service["build"]
        context = (self.file.parent / build["context"]).resolve()
        return containerfile(context / build["dockerfile"], context)

    def run(self, name: str, command: list[str], environment: dict[str, str], user: str = "") -> None:
        if user:
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
        with (RECIPES / f"compose-{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env={"PATH": os.environ["PATH"], **environment}, cwd=STATE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (STATE / name).write_text(str(process.pid))

    def start(self, name: str) -> None:
        service, address = self.services[name], str(self.addresses[name])
        environment = {key: str(value) for key, value in service.get("environment", {}).items()}
        base = service["image"].split("/")[-1].split(":")[0]
        if base == "khala":
            image = self.image(service)
            environment = {**image["environment"], **environment, "KHALA_LISTEN": f"{address}:4510"}
            self.run(name, image["entrypoint"], environment, str(image["uid"]))
        elif base == "postgres":
            data, password = STATE / "postgres-data", STATE / "password"
            data.mkdir(exist_ok=True)
            password.write_text(environment["POSTGRES_PASSWORD"])
            as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            user = environment["POSTGRES_USER"]
            if not (data / "PG_VERSION").exists():
                for path in (data, password):
                    shutil.chown(path, NOBODY, NOBODY)
                subprocess.run(
                    [*as_nobody, "initdb", f"--pgdata={data}", f"--username={user}", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                with (data / "pg_hba.conf").open("a") as hba:
                    hba.write("host all all all scram-sha-256\n")
            self.run(name, [*as_nobody, "postgres", "-D", str(data), "-c", f"listen_addresses={address}", "-c", "unix_socket_directories=", "-c", "fsync=off"], {})
            self.healthy(name, [word.replace("pg_isready", f"pg_isready -h {address}") for word in service["healthcheck"]["test"][1:]])
            made = subprocess.run(
                ["createdb", "-h", address, "-U", user, environment["POSTGRES_DB"]],
                env={**os.environ, "PGPASSWORD": environment["POSTGRES_PASSWORD"]},
                check=False,
                capture_output=True,
                text=True,
            )
            if made.returncode != 0 and "already exists" not in made.stderr:
                fail(made.stderr)
        elif base == "nats":
            self.run(name, ["nats-server", "--addr", address], {})
        elif base == "haproxy":
            (volume,) = service["volumes"]
            source, target, _ = volume.split(":")
            if target != "/usr/local/etc/haproxy/haproxy.cfg":
                fail(f"the image does not read {target}")
            self.run(name, ["haproxy", "-W", *few_connections(), "-f", str((self.file.parent / source).resolve())], {})
        else:
            fail(f"nothing is known of the image {service['image']}")

    def healthy(self, name: str, test: list[str]) -> None:
        until = time.monotonic() + 30
        while subprocess.run(" ".join(test) if len(test) != 3 else test, shell=len(test) != 3, check=False, capture_output=True).returncode != 0:
            if time.monotonic() > until:
                fail(f"{name} is not healthy:\n{(RECIPES / f'compose-{name}.log').read_text()[-3000:]}")
            time.sleep(0.1)

    def wait(self, name: str) -> None:
        if "build" in self.services[name]:
            check = self.image(self.services[name])["healthcheck"]
            self.healthy(name, [word.replace("127.0.0.1", str(self.addresses[name])) for word in check])

    def stop(self, name: str) -> None:
        try:
            pid = int((STATE / name).read_text())
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            return
        status = Path(f"/proc/{pid}/status")
        until = time.monotonic() + 60
        while status.exists() and "\nState:\tZ" not in status.read_text():
            if time.monotonic() > until:
                fail(f"{name} does not stop")
            time.sleep(0.05)

    def order(self) -> list[str]:
        done: list[str] = []

        def add(name: str) -> None:
            for other in self.services[name].get("depends_on", []):
                add(other)
            if name not in done:
                done.append(name)

        for name in self.services:
            add(name)
        return done


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["build"]:
        file = Path(words[words.index("-f") + 1])
        containerfile(file, Path(words[-1]))
        return
    if words[:2] != ["compose", "-f"]:
        fail(f"it does not know: docker {' '.join(words)}")
    services = Services(Path(words[2]).absolute())
    verb, rest = words[3], words[4:]
    options = {word for word in rest if word.startswith("-")}
    names = [word for word in rest if not word.startswith("-")]
    if verb == "up" and options <= {"--build", "-d", "--no-deps", "--wait"}:
        for name in names or services.order():
            services.stop(name)
            services.start(name)
        for name in (names or services.order()) if "--wait" in options else []:
            services.wait(name)
    elif verb in ("stop", "down") and not options:
        for name in names or reversed(services.order()):
            services.stop(name)
    else:
        fail(f"it does not know: docker {' '.join(words)}")


main()
