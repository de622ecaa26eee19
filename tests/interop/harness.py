"""Runs the real relay with programs that this project did not write.

`Relay` starts the binary on a new spool; `Sink` is a next hop (aiosmtpd) that stores its messages and
misbehaves on request. Everything is on loopback, bounded in time, and ends with the test.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = str(pathlib.Path(os.environ.get("RINGPOST", ROOT / "target/release/ringpost")).resolve())
# The PATH for programs of tests; Debian has daemons in folders that are not in a user's PATH.
os.environ["PATH"] += ":/usr/sbin:/sbin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, seconds=15.0):
    """Waits for `condition()`; fails with `what` if it does not become true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Relay:
    """The relay under test. `flags` are added to the command line."""

    def __init__(self, *flags, cores="2", smart_host=None, spool=None, retry_first="1s", env=None):
        self.own_folder = None if spool else tempfile.mkdtemp(prefix="ringpost-test-")
        self.spool = pathlib.Path(spool or self.own_folder + "/spool")
        self.port = free_port()
        self.flags = ["--listen", f"127.0.0.1:{self.port}", "--spool", str(self.spool)]
        self.flags += ["--cores", cores, "--set", f"retry.first={retry_first}"]
        if smart_host:
            self.flags += ["--smart-host", f"127.0.0.1:{smart_host}"]
        self.flags += list(flags)
        self.env = dict(os.environ, **(env or {}))
        self.process = None
        self.log = b""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.kill()
        if kind is not None:
            print(f"--- relay's diagnostics\n{self.log.decode(errors='replace')[-4000:]}---")
        if self.own_folder:
            shutil.rmtree(self.own_folder, ignore_errors=True)

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "serve", *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
        )
        threading.Thread(target=self._drain, args=(self.process,), daemon=True).start()
        try:
            wait_until("the relay listens", self._listens)
        except AssertionError:
            self.kill()
            raise

    def _drain(self, process):
        for line in process.stdout:
            self.log += line

    def _listens(self):
        if self.process.poll() is not None:
            time.sleep(0.1)
            raise AssertionError(f"the relay ended: {self.log.decode(errors='replace')}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as peer:
            peer.settimeout(5)
            return peer.recv(3) == b"220"

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(10)

    def stop(self, seconds=30):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def restart(self):
        assert self.stop() == 0, "SIGTERM ends it in good order"
        self.start()

    def command(self, *words):
        """Runs a command with the relay's configuration: (exit code, output, errors)."""
        done = subprocess.run(
            [BINARY, *words, *self.flags], capture_output=True, text=True, timeout=30, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def queue(self, *words):
        """Waiting recipients, from the relay's list: without those that have ended, which stand in
        it until that is on disk."""
        return [entry for entry in self.listed(*words) if entry["state"] != "ending"]

    def listed(self, *words):
        """All recipients in the relay's list."""
        code, output, errors = self.command("queue", "list", "--limit", "0", "--json", *words)
        assert code == 0, errors
        return [json.loads(line) for line in output.splitlines()]

    def sites(self):
        code, output, errors = self.command("queue", "sites", "--json")
        assert code == 0, errors
        return [json.loads(line) for line in output.splitlines()]

    def events(self, name=None):
        """The event log so far."""
        log = self.spool / "events.jsonl"
        if not log.exists():
            return []
        whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        events = [json.loads(line) for line in whole]
        return [event for event in events if name is None or event["event"] == name]

    def wait_event(self, name, count=1, seconds=15.0):
        return wait_until(
            f"{count} event(s) '{name}'",
            lambda: (lambda found: found if len(found) >= count else None)(self.events(name)),
            seconds,
        )

    def wait_empty(self, seconds=20.0):
        wait_until("the queue is empty", lambda: not self.listed(), seconds)


class WideSMTP(SMTP):
    """Accepts lines of any length, because real mail has them."""

    line_length_limit = 16 * 1024 * 1024

    def _getparams(self, params):
        """Accepts AUTH=<> after a login (RFC 4954 5), which aiosmtpd does not know."""
        found = super()._getparams([param for param in params if param != "AUTH=<>"])
        assert "AUTH=<>" not in params or self.session.authenticated
        return found


class WideController(Controller):
    def factory(self):
        return WideSMTP(self.handler, **self.SMTP_kwargs)


class Sink:
    """A next hop that stores its messages. `reply(step, address)` may return a refusal instead."""

    def __init__(self, reply=None, port=None, host="127.0.0.1", tls_context=None, **settings):
        self.messages = []
        self.reply = reply or (lambda step, address: None)
        self.port = port or free_port()
        self.host = host
        self.connections = 0
        self.tls_context = tls_context
        self.settings = settings
        self.controller = None

    def __enter__(self):
        self.controller = WideController(
            self, hostname=self.host, port=self.port, data_size_limit=0, decode_data=False,
            enable_SMTPUTF8=False, tls_context=self.tls_context, **self.settings,
        )
        self.controller.start()
        return self

    def __exit__(self, *_):
        self.controller.stop()

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        refusal = self.reply("mail", address)
        if refusal:
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        refusal = self.reply("rcpt", address)
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        refusal = self.reply("data", envelope.mail_from)
        if refusal:
            return refusal
        self.messages.append(
            (envelope.mail_from.replace("<>", ""), list(envelope.rcpt_tos), envelope.original_content)
        )
        return "250 2.0.0 Ok"

    def wait(self, count=1, seconds=20.0):
        wait_until(
            f"{count} message(s) at the sink (has {len(self.messages)})",
            lambda: len(self.messages) >= count,
            seconds,
        )
        return self.messages


def without_trace(content):
    """The content after the relay's own Received field, which must be there."""
    assert content.startswith(b"Received: "), content[:200]
    lines = content.split(b"\r\n")
    end = 1
    while end < len(lines) and lines[end][:1] in (b" ", b"\t"):
        end += 1
    return b"\r\n".join(lines[end:])


def dialogue(port, *sent, wait=5.0, early=False):
    """Sends raw pieces, 50 ms apart, after the greeting unless `early`; returns everything received
    until close or `wait`."""
    with socket.create_connection(("127.0.0.1", port), wait) as peer:
        peer.settimeout(wait)
        received = b"" if early else peer.recv(1000)
        for part in sent:
            peer.sendall(part)
            time.sleep(0.05)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while True:
                more = peer.recv(65536)
                if not more:
                    return received + b"<closed>"
                received += more
        return received


def need(*programs):
    """Fails clearly when a program is missing: a test must not be skipped silently."""
    for program in programs:
        assert shutil.which(program), f"{program} is not installed"


def main(tests):
    """Runs the tests named on the command line, or all; prints a closing line."""
    wanted = sys.argv[1:]
    failed = passed = 0
    for test in tests:
        name = test.__name__
        if wanted and not any(word in name for word in wanted):
            continue
        began = time.monotonic()
        try:
            test()
            passed += 1
            print(f"ok     {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:  # noqa: BLE001 - any fault is this test's failure
            failed += 1
            import traceback

            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0
