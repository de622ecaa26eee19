#!/usr/bin/env python3
"""Kills the relay with SIGKILL again and again while mail flows, and counts what became of it.

A source sends with a ledger of all that was accepted; a sink keeps a ledger of all that arrived.
In between the relay is killed at random moments (from a seed), sometimes while it still recovers,
and started again on the same spool. In every fifth round the sink defers everything, so that the
queue is full when the blow falls. At the end the relay may drain; then the ledgers are compared.

As a soak (`--minutes 20 --mixed --verify`) it goes on by the clock, with messages of 300 KB and of
5 MB among the small ones, some that are deferred until the end (so that old segments are cleaned),
small segments (so that they are used again all the time), and `ringpost spool verify` after each
kill.

Exit status: 0 nothing lost, 1 something lost or corrupted or doubled beyond the window, 2 the test could not be made.

SIGKILL proves that what was accepted left the process; it proves nothing about power failure, for
the page cache survives. That is the simulator's task.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A relay that does not listen after this long does not start.
START_SECONDS_MAX = 30
# Arrivals must have been quiet for this long before the queue counts as drained.
QUIET_SECONDS = 1.0
# What tools of this kind need besides kills and drain: starting, stopping, counting.
OVERHEAD_SECONDS = 90


class Trouble(Exception):
    """The test could not be made."""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", type=Path, default=ROOT / "target/release/ringpost",
                        help="the ringpost binary [target/release/ringpost]")
    parser.add_argument("--load", type=Path, default=None,
                        help="the ringpost-load binary [next to the relay]")
    parser.add_argument("--kills", type=int, default=50, help="[50]")
    parser.add_argument("--minutes", type=float, default=None,
                        help="kill for this long instead of counting kills")
    parser.add_argument("--verify", action="store_true",
                        help="`ringpost spool verify` must find nothing after each kill")
    parser.add_argument("--mixed", action="store_true",
                        help="messages of 300 KB and 5 MB too, some deferred to the end, and "
                             "segments of 8 MiB")
    parser.add_argument("--seed", type=int, default=1, help="of the moments [1]")
    parser.add_argument("--shortest", type=float, default=0.2,
                        help="seconds from a start to the next kill, at least [0.2]")
    parser.add_argument("--longest", type=float, default=1.5, help="at most [1.5]")
    parser.add_argument("--rate", type=float, default=1000, help="messages a second [1000]")
    parser.add_argument("--window", type=float, default=0.2,
                        help="seconds before a kill whose deliveries may be doubled: the outcome "
                             "interval of 0.05 and a commit on a busy disk [0.2]")
    parser.add_argument("--sessions", type=int, default=20, help="of the source [20]")
    parser.add_argument("--recipients", type=int, default=2, help="of each message [2]")
    parser.add_argument("--size", type=int, default=2048, help="of each message, in bytes [2048]")
    parser.add_argument("--cores", type=int, default=2, help="of the relay [2]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting for the relay, besides fast retries")
    parser.add_argument("--queue-arguments", default="--spool {spool}",
                        help="what `ringpost queue list --json` needs more [--spool {spool}]")
    parser.add_argument("--drain", type=float, default=120, help="seconds at the end [120]")
    parser.add_argument("--directory", type=Path, default=None,
                        help="where the spool is made: a real disk [the system's temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and spool")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    if options.load is None:
        options.load = options.relay.parent / "ringpost-load"
    if not 1 <= options.kills <= 10_000:
        parser.error("--kills must be 1 to 10000")
    if not 0 < options.shortest <= options.longest <= 60:
        parser.error("--shortest and --longest must be above 0, in order, at most 60")
    if options.minutes is not None and not 0 < options.minutes <= 1440:
        parser.error("--minutes must be above 0, at most 1440")
    if not 1 <= options.drain <= 3600:
        parser.error("--drain must be 1 to 3600")
    for binary in (options.relay, options.load):
        if not os.access(binary, os.X_OK) or not binary.is_file():
            parser.error(f"{binary} is no program: build with cargo build --release --workspace")
    return options


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            probe.settimeout(1)
            return probe.recv(3) == b"220"
    except OSError:
        return False


class Test:
    """The three processes, the folder, and what is done with them."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.spool = folder / "spool"
        self.accepted = folder / "accepted"
        self.arrived = folder / "arrived"
        self.defer = folder / "defer"
        self.port = free_port()
        self.stay = folder / "stay"
        self.relay = self.sink = self.source = None
        # With mixed mail: sources of the other kinds, and the sink that defers.
        self.others = []
        self.starts = self.kills = 0
        self.queue_trouble = None
        self.slowest_start = 0.0
        # So that the count works even when nothing came.
        self.accepted.touch()
        self.arrived.touch()

    def start_sinks(self):
        self.sink, self.sink_address = self.start_sink("sink", self.defer)
        if self.options.mixed:
            self.stay.touch()
            stays, address = self.start_sink("sink-stay", self.stay)
            self.others.append(stays)
            (self.folder / "relay.toml").write_text(
                f'[[route.rule]]\ndomain = "stay.test"\nnext_hop = "{address}"\n'
                f'[[route.rule]]\ndomain = "*"\nnext_hop = "{self.sink_address}"\n')

    def start_sink(self, name, defer):
        command = [self.options.load, "sink", "--listen", "127.0.0.1:0", "--quiet", "--json",
                   "--ledger", self.arrived, "--defer-until-file", defer, "--time", "86400"]
        sink = subprocess.Popen(command, stdout=open(self.folder / f"{name}.json", "wb"),
                                stderr=open(self.folder / f"{name}.log", "wb"))
        for _ in range(100):
            found = re.search(r"listening on (\S+)", (self.folder / f"{name}.log").read_text())
            if found:
                return sink, found[1]
            if sink.poll() is not None:
                break
            time.sleep(0.05)
        raise Trouble("the sink did not start: " + self.tail(f"{name}.log"))

    def start_sources(self):
        options = self.options
        self.source = self.start_source("source", options.rate, options.sessions, options.size,
                                        options.recipients, "sink.test")
        if options.mixed:
            for name, rate, sessions, size, domain in [
                ("source-stay", 4, 2, 2048, "stay.test"),
                ("source-stay-large", 0.2, 2, 300_000, "stay.test"),
                ("source-large", 4, 4, 300_000, "sink.test"),
                ("source-huge", 0.3, 2, 5_000_000, "sink.test"),
            ]:
                self.others.append(self.start_source(name, rate, sessions, size, 1, domain))

    def start_source(self, name, rate, sessions, size, recipients, domain):
        command = [self.options.load, "source", "--to", f"127.0.0.1:{self.port}", "--quiet",
                   "--json", "--retry-connect", "--ledger", self.accepted, "--domain", domain,
                   "--messages", "100000000", "--rate", str(rate), "--sessions", str(sessions),
                   "--size", str(size), "--recipients", str(recipients), "--time", "86400"]
        return subprocess.Popen(command, stdout=open(self.folder / f"{name}.json", "wb"),
                                stderr=open(self.folder / f"{name}.log", "wb"))

    def start_relay(self):
        command = [self.options.relay, "serve", "--listen", f"127.0.0.1:{self.port}",
                   "--spool", self.spool, "--cores", str(self.options.cores)]
        if self.options.mixed:
            command += ["--config", self.folder / "relay.toml",
                        "--set", "spool.segment_bytes=8 MiB", "--set",
                        "session.message_bytes_max=6 MiB", "--set",
                        "session.recipients_max=100"]
        else:
            command += ["--smart-host", self.sink_address]
        for setting in ["retry.first=1s", "retry.max=2s", *self.options.set]:
            command += ["--set", setting]
        log = open(self.folder / "relay.log", "ab")
        self.relay = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        self.starts += 1

    def await_relay(self):
        begin = time.monotonic()
        while not listens(self.port):
            self.check_alive()
            if time.monotonic() - begin > START_SECONDS_MAX:
                raise Trouble(f"the relay does not listen after {START_SECONDS_MAX} s: "
                              + self.tail("relay.log"))
            time.sleep(0.02)
        self.slowest_start = max(self.slowest_start, time.monotonic() - begin)

    def check_alive(self):
        for name in ("relay", "sink", "source"):
            process = getattr(self, name)
            if process is not None and process.poll() is not None:
                raise Trouble(f"the {name} ended by itself with status {process.returncode}: "
                              + self.tail(f"{name}.log"))

    def kill_relay(self):
        self.check_alive()
        self.relay.send_signal(signal.SIGKILL)
        self.relay.wait()
        self.relay = None
        self.kills += 1

    def verify(self):
        command = [self.options.relay, "spool", "verify", self.spool]
        verified = subprocess.run(command, capture_output=True, timeout=120)
        if verified.returncode != 0:
            raise Trouble(f"kill {self.kills}: spool verify says {verified.returncode}: "
                          + (verified.stdout + verified.stderr).decode(errors="replace")[-1500:])

    def is_enough(self):
        if self.options.minutes is None:
            return self.kills >= self.options.kills
        return time.monotonic() >= self.until

    def rounds(self, rng):
        if self.options.minutes is not None:
            self.until = time.monotonic() + self.options.minutes * 60
        while not self.is_enough():
            kill = self.kills + 1
            if kill % 5 == 0:
                self.defer.touch()
            # In two rounds of three the clock runs from the start of the process, so that some
            # blows fall while it still recovers; in the third from its greeting, so that the test
            # goes on however slow a recovery is.
            if kill % 3 == 0:
                self.await_relay()
            time.sleep(rng.uniform(self.options.shortest, self.options.longest))
            self.kill_relay()
            self.defer.unlink(missing_ok=True)
            if self.options.verify and self.spool.exists():
                self.verify()
            if sys.stderr.isatty():
                print(f"\rkill {kill}, accepted {lines(self.accepted)}",
                      end="", file=sys.stderr, flush=True)
            self.start_relay()
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self.await_relay()

    def stop(self, name):
        process = getattr(self, name)
        setattr(self, name, None)
        self.end(process)

    def stop_others(self, program):
        for process in [one for one in self.others if program in one.args]:
            self.end(process)
            self.others.remove(process)

    def end(self, process):
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def waiting(self):
        """How many recipients the relay says are waiting; None when it cannot be asked."""
        extra = self.options.queue_arguments.format(spool=self.spool).split()
        command = [self.options.relay, "queue", "list", "--json", *extra]
        try:
            asked = subprocess.run(command, capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            self.queue_trouble = "no answer in 20 s"
            return None
        if asked.returncode != 0:
            self.queue_trouble = asked.stderr.decode(errors="replace").strip()[-300:]
            return None
        self.queue_trouble = None
        return sum(1 for line in asked.stdout.splitlines() if line.strip())

    def drain(self):
        """Waits until the queue is empty and arrivals are quiet; gives what still waits."""
        end = time.monotonic() + self.options.drain
        seen, quiet_since = -1, time.monotonic()
        while time.monotonic() < end:
            self.check_alive()
            size = self.arrived.stat().st_size
            if size != seen:
                seen, quiet_since = size, time.monotonic()
            elif time.monotonic() - quiet_since >= QUIET_SECONDS:
                waiting = self.waiting()
                # A relay that cannot be asked is drained when nothing is missing.
                if waiting == 0 or (waiting is None and self.count()["lost"] == 0):
                    return waiting
            time.sleep(0.2)
        return self.waiting()

    def count(self):
        command = [self.options.load, "count", "--json", "--accepted", self.accepted,
                   "--arrived", self.arrived]
        counted = subprocess.run(command, capture_output=True, timeout=300)
        if counted.returncode not in (0, 1):
            raise Trouble(counted.stderr.decode(errors="replace").strip())
        return json.loads(counted.stdout)

    def tail(self, name):
        path = self.folder / name
        return path.read_bytes()[-2000:].decode(errors="replace").strip() if path.exists() else ""

    def clean(self):
        for process in [self.source, self.relay, self.sink, *self.others]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def lines(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def run(test, options):
    test.start_sinks()
    test.start_relay()
    test.await_relay()
    test.start_sources()
    begin = time.monotonic()
    test.rounds(random.Random(options.seed))
    test.stop("source")
    test.stop_others("source")
    test.stay.unlink(missing_ok=True)
    killing = time.monotonic() - begin
    begin = time.monotonic()
    waiting = test.drain()
    draining = time.monotonic() - begin
    test.stop("relay")
    test.stop("sink")
    test.stop_others("sink")
    result = test.count()
    if result["accepted"] == 0:
        raise Trouble("nothing was accepted: " + test.tail("source.json")
                      + "\n" + test.tail("relay.log"))
    result |= {
        "kills": test.kills, "seed": options.seed, "starts": test.starts,
        "doubled_per_kill": round(result["doubled"] / max(test.kills, 1), 2),
        "window_per_kill": round(options.window * options.rate * options.recipients),
        "still_waiting": waiting, "killing_seconds": round(killing, 1),
        "drain_seconds": round(draining, 1),
        "slowest_start_seconds": round(test.slowest_start, 2),
    }
    return result


def show(result, test):
    for name in ("kills", "seed", "messages", "accepted", "arrived", "refused", "lost", "doubled",
                 "doubled_per_kill", "window_per_kill", "corrupted", "unknown", "still_waiting", "killing_seconds",
                 "drain_seconds", "slowest_start_seconds"):
        print(f"{name:22} {result[name]}")
    for one in result["lost_ids"]:
        print(f"{'lost':22} {one}")
    if test.queue_trouble:
        print(f"the queue could not be listed: {test.queue_trouble}")


def main():
    options = arguments()
    kills = (options.kills * (options.longest + START_SECONDS_MAX / 3)
             if options.minutes is None else options.minutes * 60 + START_SECONDS_MAX)
    bound = kills + options.drain + OVERHEAD_SECONDS

    def late(*_):
        raise Trouble(f"not done after {bound:.0f} s")

    def stopped(*_):
        raise Trouble("stopped")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, stopped)
    signal.alarm(int(bound) + 1)
    folder = Path(tempfile.mkdtemp(prefix="ringpost-kill9-", dir=options.directory))
    test = Test(options, folder)
    kept = options.keep
    try:
        result = run(test, options)
        in_window = result["doubled_per_kill"] <= result["window_per_kill"]
        good = result["lost"] == 0 and result["corrupted"] == 0 and in_window
        kept = kept or not good
        if options.json:
            print(json.dumps(result))
        else:
            show(result, test)
        return 0 if good else 1
    except (Trouble, OSError, KeyboardInterrupt) as trouble:
        kept = True
        print(f"kill9: {trouble or 'stopped'}", file=sys.stderr)
        return 2
    finally:
        signal.alarm(0)
        test.clean()
        if kept:
            print(f"kill9: logs, ledgers and spool are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
