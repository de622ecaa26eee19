"""Programs that use other mail libraries, in `programs`: each gets its task in JSON on standard
input, and prints the results in JSON.

`.ci/run` installs the libraries, and the packages of node below `target/peers` (or RINGPOST_PEERS).
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

from harness import ROOT, wait_until

FOLDER = pathlib.Path(os.environ.get("RINGPOST_PEERS", ROOT / "target/peers")).resolve()
PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
PACKAGES = FOLDER / "node/node_modules"
GO_LIBRARIES = pathlib.Path("/usr/share/gocode")


def missing_for_node():
    """The missing parts as text; empty if all are there."""
    if not shutil.which("node"):
        return "node is not installed"
    if not (PACKAGES / "nodemailer").exists() or not (PACKAGES / "smtp-server").exists():
        return (f"nodemailer and smtp-server are not in {PACKAGES}; .ci/run installs them, by "
                f"npm ci with {PROGRAMS}/package-lock.json")
    return ""


def missing_for_go():
    if not shutil.which("go"):
        return "go is not installed (Debian: golang-go)"
    for name in ("go-smtp", "go-sasl"):
        if not (GO_LIBRARIES / "src/github.com/emersion" / name).exists():
            return f"{name} is not installed (Debian: golang-github-emersion-{name}-dev)"
    return ""


def node(name):
    """The command that runs a program for node."""
    missing = missing_for_node()
    assert not missing, missing
    return ["node", str(PROGRAMS / name)]


def golang(word):
    """The command that runs the program in Go; it is built first if its source is newer."""
    missing = missing_for_go()
    assert not missing, missing
    source, program = PROGRAMS / "golang", FOLDER / "golang"
    newest = max(path.stat().st_mtime for path in source.glob("*.go"))
    if not program.exists() or program.stat().st_mtime < newest:
        FOLDER.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["go", "build", "-o", program, "."], cwd=source, capture_output=True,
                              text=True, timeout=300, check=False, env=environment())
        assert done.returncode == 0, done.stderr
    return [str(program), word]


def environment(**more):
    """Uses the installed libraries; downloads nothing."""
    return dict(os.environ, NODE_PATH=str(PACKAGES), GO111MODULE="off", GOFLAGS="", CGO_ENABLED="0",
                GOPATH=str(GO_LIBRARIES), GOCACHE=str(FOLDER / "go-cache"), **more)


def encoded(content):
    return base64.b64encode(content).decode()


def run(command, job, **env):
    """Runs a program; returns its output by lines."""
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True,
                          timeout=120, check=False, env=environment(**env))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Server:
    """A next hop that stores its messages with their envelopes: `messages`."""

    def __init__(self, command, settings):
        self.command, self.settings = command, settings
        self.messages = []
        self.port = None

    def __enter__(self):
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.said, text=True, env=environment())
        self.process.stdin.write(json.dumps(self.settings) + "\n")
        self.process.stdin.flush()
        first = self.process.stdout.readline()
        if not first:
            self.process.wait(10)
            self.said.seek(0)
            raise AssertionError(f"it did not start: {self.said.read()}")
        self.port = json.loads(first)["port"]
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()
        self.said.close()

    def _read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            message["content"] = self.unread(base64.b64decode(message["content"]))
            self.messages.append(message)

    @staticmethod
    def unread(content):
        """The bytes on the wire, from the form that the library returns."""
        return content

    def wait(self, count=1, seconds=20.0):
        wait_until(f"{count} message(s) (has {len(self.messages)})",
                   lambda: len(self.messages) >= count, seconds)
        return self.messages

    def came(self):
        """The messages, without reports."""
        return [one for one in self.messages if one["from"]]

    def reports(self):
        return [one["content"].decode() for one in self.messages if not one["from"]]


class SmtpServer(Server):
    """smtp-server, with these `options` of the library."""

    def __init__(self, options=None, **more):
        super().__init__(node("smtp_server.cjs"), {"options": options or {}, **more})


class GoSmtp(Server):
    """The server of go-smtp."""

    def __init__(self, **settings):
        super().__init__(golang("server"), settings)

    @staticmethod
    def unread(content):
        return content.replace(b"\n", b"\r\n")


def nodemailer(transport, messages, at_once=False):
    """Sends messages with nodemailer; returns the result of each."""
    job = {"transport": transport, "messages": messages, "at_once": at_once}
    results = run(node("nodemailer.cjs"), job)
    assert len(results) == len(messages), results
    return results


def raw(content, sender="a@sender.test", to=("b@sink.test",), **options):
    """A message for `nodemailer`."""
    return {"base64": encoded(content),
            "options": {"envelope": {"from": sender, "to": list(to)}, **options}}
