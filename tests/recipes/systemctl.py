"""Stands in for `systemctl` in a container: does with a unit what systemd would, as far as recipes ask for it.

# Invariants

- A unit is checked by systemd itself (`systemd-analyze verify`) before it is started.
- A unit is started by its own `ExecStart`, in its working directory, with its environment and its credentials, and with
  `DynamicUser=yes` as a user who is not root. A command that this file does not know is an error.
- The rest of the sandbox (`ProtectSystem` and so on) is not put up: systemd alone can.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = [Path("/etc/systemd/system"), Path("/lib/systemd/system")]
RUN = Path("/run/units")
NOBODY = 65534


def fail(text: str) -> None:
    sys.exit(f"systemctl.py: {text}")


def path_of(unit: str) -> Path:
    for folder in UNITS:
        if (folder / unit).exists():
            return folder / unit
    fail(f"Unit {unit} not found.")


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in [path_of(unit), *sorted(Path(f"/etc/systemd/system/{unit}.d").glob("*.conf"))]:
        text = re.sub(r"\\\n\s*", " ", file.read_text())
        for line in text.splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith(("#", ";")):
                found.setdefault(key, []).append(value)
    return found


def verify(unit: str) -> None:
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path_of(unit))], capture_output=True, text=True, check=False)
    # A container has no units of others (sysinit.target and so on): what is said of this unit counts.
    said = [line for line in checked.stderr.splitlines() if unit in line or "/etc/systemd/system" in line]
    if said:
        fail(f"systemd-analyze verify {unit}:\n" + "\n".join(said))


def words(line: str, environment: dict[str, str]) -> list[str]:
    line = line.lstrip("-@+!:")
    found: list[str] = []
    for word in shlex.split(line):
        # `$WORD` alone is any number of words, `${WORD}` is one or a part of one.
        if re.fullmatch(r"\$\w+", word):
            found += shlex.split(environment.get(word[1:], ""))
        else:
            found.append(re.sub(r"\$\{(\w+)\}", lambda name: environment.get(name[1], ""), word))
    return found


def start(unit: str) -> None:
    verify(unit)
    found = settings(unit)
    state = RUN / unit
    credentials = state / "credentials"
    credentials.mkdir(parents=True, exist_ok=True)
    for line in found.get("LoadCredential", []):
        name, _, source = line.partition(":")
        shutil.copy(source, credentials / name)
        (credentials / name).chmod(0o400)
    home = ""
    for name in found.get("StateDirectory", []):
        home = f"/var/lib/{name}"
        Path(home).mkdir(parents=True, exist_ok=True)

    def expanded(value: str) -> str:
        return value.replace("%d", str(credentials)).replace("%S", "/var/lib")

    environment = dict(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", CREDENTIALS_DIRECTORY=str(credentials))
    for line in found.get("Environment", []):
        environment.update(word.split("=", 1) for word in shlex.split(expanded(line)))
    for line in found.get("EnvironmentFile", []):
        if Path(line.lstrip("-")).exists():
            environment.update(word.split("=", 1) for word in shlex.split(Path(line.lstrip("-")).read_text(), comments=True))
    command = words(found["ExecStart"][-1], environment)
    if found.get("DynamicUser") == ["yes"]:
        for path in [credentials, *credentials.iterdir(), *([Path(home)] if home else [])]:
            shutil.chown(path, NOBODY, NOBODY)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", *command]
    for line in found.get("ExecStartPre", []):
        subprocess.run(words(line, environment), env=environment, check=True)
    where = expanded(found.get("WorkingDirectory", ["/"])[-1])
    with (state / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    time.sleep(0.2)
    code = process.poll()
    forking = found.get("Type") == ["forking"]
    if code is not None and not (forking and code == 0):
        fail(f"{unit} ended with {code}:\n{(state / 'log').read_text()}")
    pid = process.pid
    if forking:
        pid = int(Path(found["PIDFile"][-1]).read_text())
    (state / "pid").write_text(str(pid))


def pid_of(unit: str) -> int | None:
    try:
        pid = int((RUN / unit / "pid").read_text())
        # One that has ended and that nobody waited for is gone.
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return None
        return pid
    except (FileNotFoundError, ProcessLookupError):
        return None


def stop(unit: str) -> None:
    if (pid := pid_of(unit)) is None:
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 60
    while pid_of(unit) is not None:
        if time.monotonic() > until:
            fail(f"{unit} did not stop")
        time.sleep(0.05)


def main() -> None:
    verb, *rest = sys.argv[1:] or [""]
    now = "--now" in rest
    units = [name if "." in name else f"{name}.service" for name in rest if not name.startswith("-")]
    if verb == "daemon-reload" and not units:
        for unit in sorted(Path("/etc/systemd/system").glob("*.service")):
            if not unit.is_symlink():
                verify(unit.name)
    elif verb == "enable":
        for unit in units:
            path_of(unit)
            if "WantedBy" not in settings(unit):
                fail(f"{unit} has no [Install]")
            if now:
                start(unit)
    elif verb in ("start", "restart", "reload", "stop", "is-active"):
        for unit in units:
            if verb in ("restart", "stop"):
                stop(unit)
            if verb in ("restart", "start"):
                start(unit)
            if verb in ("reload", "is-active"):
                pid = pid_of(unit)
                if pid is None:
                    fail(f"{unit} is not active")
                if verb == "reload":
                    environment = {"MAINPID": str(pid), "PATH": os.environ["PATH"]}
                    for line in settings(unit)["Environment"] if "Environment" in settings(unit) else []:
                        environment.update(word.split("=", 1) for word in shlex.split(line) if "%" not in word)
                    for line in settings(unit)["ExecReload"]:
                        subprocess.run(words(line, environment), env=environment, check=True)
    else:
        fail(f"it does not know: systemctl {' '.join(sys.argv[1:])}")


main()
