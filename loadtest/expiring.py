#!/usr/bin/env python3
"""Mail that fails all at once: what the relay needs for that, and what other mail sees of it.

Starts the relay on loopback, fills it with mail to a next hop that takes none of it, and stops it.
After the next start all of that mail has expired (or is refused) in the same moment. Meanwhile one
message after the other goes to another domain, which takes it. At the end each recipient must have
ended once and stand in one report, and every other message must have arrived once.

    python3 loadtest/expiring.py                    1,000,000 expire, 100,000 refused, 8,000 x 200 KB
    python3 loadtest/expiring.py --scale 0.05       the same, smaller
    python3 loadtest/expiring.py --descriptors-min  with no descriptor more than the relay asks for
    python3 loadtest/expiring.py --disk 256         on a file system of so many MiB (root only)
    python3 loadtest/expiring.py --case sites       100,000 sites that refuse connections

Prints a table: peak memory and descriptors against the number, and the slowest other message. For
the sites: the CPU time of one recipient, which must not grow with their number, and how long a new
client waits at most for its greeting.
Exit status: 0 all as promised, 1 something was not, 2 the test could not be made.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import signal
import smtplib
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A good message may take so long to be accepted, and so long to arrive.
OTHER_SECONDS_MAX = 1.0
# `retry.expire` of mail that is to expire.
EXPIRE_SECONDS = 60
# Of the next hop that takes other mail.
OTHER_HOST = "127.0.0.2"
# The case is over when no report came for so long.
QUIET_SECONDS = 60
# What the relay says that it needs beside connections, at --descriptors-min.
CONNECTIONS = 64
CASES = {
    # name: messages, recipients of each, content in bytes, how they fail
    "expiring": (10_000, 100, 1_000, "expire"),
    "refused": (100_000, 1, 1_000, "refuse"),
    "large": (8_000, 1, 200_000, "expire"),
}

# Sites that refuse connections, one recipient each. A recipient at the second number of them may
# cost so many times what one at the first does; the medians of some runs are compared.
SITES = (5_000, 100_000)
SITES_RUNS = 3
SITES_GROWTH_MAX = 1.2
SITES_GREETING_SECONDS_MAX = 0.05


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", type=pathlib.Path,
                        default=ROOT / "target/release/ringpost")
    parser.add_argument("--case", action="append", choices=[*CASES, "sites"],
                        help="[all but sites]")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers [1.0]")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--descriptors-min", action="store_true",
                        help="the limit of open files is what the relay needs, and not more")
    parser.add_argument("--disk", type=int, metavar="MIB",
                        help="fill a file system of this size, however many messages that takes")
    parser.add_argument("--segment", default=None, help="spool.segment_bytes")
    parser.add_argument("--seconds", type=float, default=1800, help="for each case at most [1800]")
    parser.add_argument("--folder", default=None, help="for the spool")
    return parser.parse_args()


class Sink:
    """A next hop: takes reports and good mail, and treats other recipients as it is told."""

    def __init__(self, mode, records):
        self.mode, self.records = mode, records

    async def session(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.talk(reader, writer)
        writer.close()

    async def talk(self, reader, writer):
        def say(line):
            writer.write(line + b"\r\n")

        say(b"220 sink.test")
        taken, sender = [], b""
        while True:
            line = await reader.readuntil(b"\n")
            verb = line[:4].upper()
            if verb == b"EHLO":
                say(b"250-sink.test")
                say(b"250-PIPELINING")
                say(b"250 8BITMIME")
            elif verb == b"MAIL":
                taken, sender = [], line[10:].split(b">")[0].lstrip(b"<")
                say(b"250 2.1.0 Ok")
            elif verb == b"RCPT":
                to = line[8:].split(b">")[0].lstrip(b"<")
                if to.endswith(b"@failing.test"):
                    refuse = self.mode.value == 1
                    say(b"550 5.1.1 No such user" if refuse else b"451 4.2.0 Later")
                else:
                    taken.append(to)
                    say(b"250 2.1.5 Ok")
            elif verb == b"DATA":
                if not taken:
                    say(b"554 5.5.1 No recipients")
                    continue
                say(b"354 Go on")
                await writer.drain()
                content = await self.content(reader)
                self.keep(sender, taken, content)
                say(b"250 2.0.0 Ok")
                taken = []
            elif verb == b"QUIT":
                say(b"221 2.0.0 Bye")
                return
            elif verb == b"RSET":
                taken = []
                say(b"250 2.0.0 Ok")
            else:
                say(b"500 5.5.1 What?")
            await writer.drain()

    async def content(self, reader):
        lines = []
        while (line := await reader.readuntil(b"\n")) != b".\r\n":
            lines.append(line)
        return b"".join(lines)

    def keep(self, sender, taken, content):
        if sender:
            number = re.search(rb"^Subject: (\d+)\r", content, re.M)
            self.records.write(f"good {number[1].decode()} {time.time()}\n")
        else:
            for failed in re.findall(rb"^Final-Recipient: rfc822; ?(\S+)\r", content, re.M):
                self.records.write(f"report {failed.decode()}\n")
        self.records.flush()


def sink_process(address, mode, path):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def run():
        with open(path, "w") as records:
            sink = Sink(mode, records)
            server = await asyncio.start_server(
                sink.session, *address, limit=1 << 22, backlog=1024
            )
            async with server:
                await server.serve_forever()

    asyncio.run(run())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Relay:
    def __init__(self, options, spool, sink_port, *flags):
        self.port = free_port()
        self.spool = spool
        self.command = [
            str(options.relay), "serve", "--listen", f"127.0.0.1:{self.port}",
            "--spool", str(spool), "--cores", str(options.cores),
            "--set", "pin=false", "--set", "session.recipients_max=100", *flags,
        ]
        if sink_port:
            self.command += ["--smart-host", f"127.0.0.1:{sink_port}"]
        if options.segment:
            self.command += ["--set", f"spool.segment_bytes={options.segment}",
                             "--set", "session.message_bytes_max=1MiB",
                             "--set", "spool.stream_threshold=64KiB"]
        if options.descriptors_min:
            self.command += ["--set", f"core_default.connections_max={CONNECTIONS}",
                             "--set", f"pool.connections_max={CONNECTIONS}"]
        self.limit = None
        self.process = None
        self.log = tempfile.TemporaryFile()

    def start(self, *flags, seconds=60):
        def limit():
            if self.limit:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit, self.limit))

        self.process = subprocess.Popen(
            [*self.command, *flags], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=subprocess.STDOUT, preexec_fn=limit,
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", self.port), 1
            ) as peer:
                peer.settimeout(5)
                if peer.recv(3) == b"220":
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the relay does not start: {self.said()}")

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def least_descriptors(self):
        """What it asks for when it has too few."""
        self.limit = 128
        with contextlib.suppress(RuntimeError):
            self.start()
        needed = re.search(r"needs (\d+)", self.said())
        self.stop()
        assert needed, self.said()
        self.limit = int(needed[1])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def rss_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2]
        return sum(int(ticks) for ticks in fields.split()[11:13]) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Watch(threading.Thread):
    """Peak memory and descriptors of the relay."""

    def __init__(self, relay):
        super().__init__(daemon=True)
        self.relay, self.over = relay, threading.Event()
        self.memory, self.files = 0.0, 0

    def run(self):
        while not self.over.wait(0.02):
            with contextlib.suppress(OSError, TypeError):
                self.memory = max(self.memory, self.relay.rss_mib())
                self.files = max(self.files, self.relay.descriptors())


class Others(threading.Thread):
    """Other mail, one message after the other: when each was sent, and how long its 250 took."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()
        self.sent, self.slowest, self.refused = {}, 0.0, []

    def run(self):
        number = 0
        while not self.over.wait(0.1):
            number += 1
            begin = time.time()
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
                    text = f"Subject: {number}\r\n\r\nx\r\n"
                    client.sendmail("a@sender.test", ["b@good.test"], text)
                self.sent[number] = begin
                self.slowest = max(self.slowest, time.time() - begin)
            except (OSError, smtplib.SMTPException) as error:
                self.refused.append(repr(error))


class Arrived:
    """What the sinks have written down so far."""

    def __init__(self, paths):
        self.positions = dict.fromkeys(paths, 0)
        self.reports, self.good = collections.Counter(), {}

    def read(self):
        for path, position in self.positions.items():
            with path.open() as file:
                file.seek(position)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n"):
                        break
                    self.positions[path] += len(line)
                    words = line.split()
                    if words[0] == "good":
                        self.good.setdefault(int(words[1]), []).append(float(words[2]))
                    else:
                        self.reports[words[1]] += 1


def failing_address(number, index):
    return b"%d.%d@failing.test" % (number, index)


def fill(relay, messages, recipients, size, address=failing_address):
    """Sends `messages` over a few sessions, each pipelined; how many were taken."""
    sessions = 8
    body = (b"y" * 70 + b"\r\n") * (size // 72)
    taken = [0] * sessions

    def one(session):
        numbers = range(session, messages, sessions)
        full = 0
        while True:
            with socket.create_connection(("127.0.0.1", relay.port), 60) as peer:
                replies = peer.makefile("rb")
                replies.readline()
                peer.sendall(b"EHLO client.test\r\n")
                while replies.readline()[3:4] == b"-":
                    pass
                for number in numbers[taken[session]:]:
                    command = b"MAIL FROM:<a@sender.test>\r\n" + b"".join(
                        b"RCPT TO:<" + address(number, index) + b">\r\n"
                        for index in range(recipients)
                    ) + b"DATA\r\n"
                    peer.sendall(command)
                    codes = [replies.readline()[:3] for _ in range(recipients + 2)]
                    if codes[-1] == b"354":
                        peer.sendall(b"Subject: x\r\n\r\n" + body + b".\r\n")
                        codes.append(replies.readline()[:3])
                    if codes[-1] != b"250":
                        full += 1
                        break
                    taken[session] += 1
                    full = 0
                else:
                    return
            # Full. Another connection may come to a shard with space.
            if full >= 6:
                return
            time.sleep(0.05)

    threads = [threading.Thread(target=one, args=(session,)) for session in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [
        number for session in range(sessions)
        for number in range(session, messages, sessions)[: taken[session]]
    ]


@contextlib.contextmanager
def place(options):
    """The folder of the spool."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ringpost-expiring-") as folder:
        if not options.disk:
            yield pathlib.Path(folder)
            return
        image, at = pathlib.Path(folder, "image"), pathlib.Path(folder, "disk")
        at.mkdir()
        with image.open("wb") as file:
            file.truncate(options.disk << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", "-l", str(at)], check=True)


def run_case(name, options):
    messages, recipients, size, how = CASES[name]
    messages = max(10, int(messages * options.scale))
    if options.disk:
        messages = max(messages, 3 * (options.disk << 20) // (size + recipients * 40))
    port, other_port, mode = free_port(), free_port(), multiprocessing.Value("i", 0)
    with place(options) as folder, tempfile.TemporaryDirectory() as beside:
        # Other mail has a next hop of its own, at another address, as connections are counted by
        # address: how fast the first one takes reports is not measured.
        sinks, all_records = [], []
        for host, one in (("127.0.0.1", port), (OTHER_HOST, other_port)):
            records = pathlib.Path(beside, f"records.{one}")
            records.touch()
            all_records.append(records)
            sinks.append(multiprocessing.Process(
                target=sink_process, args=((host, one), mode, records), daemon=True))
            sinks[-1].start()
        # The event log beside the disk: what it takes of a small one is not what is measured.
        relay = Relay(options, folder / "spool", port, "--set",
                      f"event.file={pathlib.Path(beside, 'events.jsonl')}",
                      "--set", "event.rotate_bytes=4GiB", "--set",
                      f'route.rule=[{{domain="good.test", next_hop="{OTHER_HOST}:{other_port}"}}]')
        try:
            if options.descriptors_min:
                relay.least_descriptors()
            case = (messages, recipients, size, how)
            return measure(name, options, relay, mode, all_records, case)
        finally:
            relay.stop()
            for sink in sinks:
                sink.terminate()
                sink.join()


def measure(name, options, relay, mode, records, case):
    messages, recipients, size, how = case
    begin = time.monotonic()
    relay.start("--set", "retry.first=1h", "--set", "retry.max=1h")
    numbers = fill(relay, messages, recipients, size)
    # What has arrived of it, before it fails, is what the relay needs for its queue.
    relay.stop()
    filled = time.monotonic() - begin
    failing = len(numbers) * recipients
    if how == "refuse":
        mode.value = 1
    flags = ["--set", "retry.first=1h", "--set", "retry.max=1h"]
    if how == "expire":
        # For reports and other mail it must be enough.
        flags = ["--set", f"retry.expire={EXPIRE_SECONDS}s"]
        time.sleep(EXPIRE_SECONDS + 1)
    watch, others = Watch(relay), Others(relay.port)
    begin = time.monotonic()
    watch.start()
    relay.start(*flags, seconds=120)
    at_start = relay.rss_mib()
    if how == "refuse":
        # It was deferred while it came; now all of it is tried at once.
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
            client.ehlo()
            code, words = client.docmd("ETRN failing.test")
            if code // 100 != 2:
                raise RuntimeError(f"ETRN: {code} {words}")
    others.start()
    arrived = Arrived(records)
    changed = time.monotonic()
    while time.monotonic() - begin < options.seconds:
        time.sleep(0.5)
        before = len(arrived.reports)
        arrived.read()
        if len(arrived.reports) > before:
            changed = time.monotonic()
        if len(arrived.reports) >= failing or time.monotonic() - changed > QUIET_SECONDS:
            break
        if relay.process.poll() is not None:
            raise RuntimeError(f"the relay ended: {relay.said()}")
    took = changed - begin
    time.sleep(2)
    others.over.set()
    others.join()
    end = time.monotonic() + QUIET_SECONDS
    while len(arrived.good) < len(others.sent) and time.monotonic() < end:
        time.sleep(0.5)
        arrived.read()
    reports, good = arrived.reports, arrived.good
    watch.over.set()
    # A good message that was sent in the last second of a life may be there twice; not here.
    lost = [number for number in others.sent if number not in good]
    twice = [number for number in good if len(good[number]) > 1]
    slowest = max((good[n][0] - others.sent[n] for n in good if n in others.sent), default=0.0)
    relay.stop()
    events = ended(relay, records[0].parent)
    result = {
        "case": name, "recipients": failing, "KiB": round(len(numbers) * size / 1024),
        "filled s": round(filled, 1), "took s": round(took, 1), "MiB at start": round(at_start),
        "MiB peak": round(watch.memory), "files peak": watch.files, "limit": relay.limit or "",
        "others": len(others.sent), "refused": len(others.refused),
        "250 max s": round(others.slowest, 2), "there max s": round(slowest, 2),
    }
    faults = []
    expected = {f"{n}.{index}@failing.test" for n in numbers for index in range(recipients)}
    if set(reports) != expected:
        faults.append(f"{len(expected - set(reports))} of {failing} were never reported")
    if any(count > 1 for count in reports.values()):
        faults.append(f"{sum(c > 1 for c in reports.values())} were reported more than once")
    if events != {to: 1 for to in expected}:
        counts = collections.Counter(events.get(to, 0) for to in expected)
        del counts[1]
        faults.append(f"did not end exactly once, by how often they did: {dict(counts)}")
    if lost or twice:
        faults.append(f"other mail: {len(lost)} lost, {len(twice)} arrived twice")
    if not options.disk and (others.refused or max(others.slowest, slowest) > OTHER_SECONDS_MAX):
        faults.append("other mail was not accepted and delivered within a second")
        faults += others.refused[:3]
    return result, faults


def ended(relay, folder):
    """How often each failing recipient ended, by the event log."""
    counts = collections.Counter()
    for path in [*folder.glob("events.jsonl*"), *relay.spool.glob("events.jsonl*")]:
        with path.open() as file:
            for line in file:
                if '"bounced"' in line or '"expired"' in line or '"dropped"' in line:
                    with contextlib.suppress(ValueError):
                        event = json.loads(line)
                        to = event.get("to", "")
                        if to.endswith("@failing.test"):
                            counts[to] += 1
    return counts


def name_server(server):
    """MX and A for each domain, from the number in its name; no other records."""
    def name(text):
        return b"".join(bytes([len(label)]) + label for label in text.split(b".")) + b"\0"

    while True:
        query, peer = server.recvfrom(2048)
        number = int(re.match(rb"[a-z](\d+)", query[13:])[1])
        end = query.index(b"\0", 12) + 5
        kind, answer = int.from_bytes(query[end - 4:end - 2], "big"), b""
        if kind == 15:
            answer = b"\0\x0a" + name(b"m%d.test" % number)
        elif kind == 1:
            answer = bytes([127, number // 60_000 + 1, number % 60_000 // 250, number % 250 + 1])
        if answer:
            head = struct.pack(">HHHIH", 0xC00C, kind, 1, 3600, len(answer))
            answer = head + answer
        flags = b"\x81\x80\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0"
        server.sendto(query[:2] + flags + query[12:end] + answer, peer)


def greetings(port, over, worst):
    """New clients, one after the other: how long one waited at most for its greeting."""
    while not over.wait(0.02):
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), 60) as peer:
                peer.recv(4)
        worst.value = max(worst.value, time.monotonic() - begin)


def refused_by_sites(options, count):
    """`count` sites refuse the connection for one recipient each."""
    with place(options) as folder, socket.socket(type=socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind(("127.0.0.1", 0))
        events = folder / "events.jsonl"
        relay = Relay(options, folder / "spool", None, "--set", f"event.file={events}",
                      "--set", "event.rotate_bytes=4GiB", "--set", "retry.first=1h",
                      "--set", f"dns.servers=127.0.0.1:{server.getsockname()[1]}",
                      "--set", f"route.port={free_port()}")
        over, worst = multiprocessing.Event(), multiprocessing.Value("d", 0.0)
        names = multiprocessing.Process(target=name_server, args=(server,), daemon=True)
        clients = multiprocessing.Process(
            target=greetings, args=(relay.port, over, worst), daemon=True)
        names.start()
        try:
            relay.start()
            before, begin = relay.cpu_seconds(), time.monotonic()
            clients.start()
            watch = Watch(relay)
            watch.start()
            fill(relay, count // 100, 100, 100, lambda n, i: b"u@d%d.test" % (n * 100 + i))
            deferred = 0
            with events.open("rb") as file:
                while deferred < count:
                    late = time.monotonic() - begin > options.seconds
                    if late or relay.process.poll() is not None:
                        raise RuntimeError(f"{deferred} of {count} were deferred: {relay.said()}")
                    time.sleep(0.2)
                    deferred += file.read().count(b'"deferred"')
            return {
                "sites": count, "took s": round(time.monotonic() - begin, 1),
                "CPU us each": round((relay.cpu_seconds() - before) / count * 1e6, 1),
                "220 max ms": round(worst.value * 1e3, 1),
                "MiB peak": round(watch.memory), "files peak": watch.files,
            }
        finally:
            over.set()
            relay.stop()
            names.terminate()


def sites_case(options):
    """A recipient costs the same with many sites as with few, and a new client hardly waits."""
    head, costs, faults = None, [], []
    for count in SITES:
        count = max(1000, int(count * options.scale) // 100 * 100)
        runs = []
        for _ in range(SITES_RUNS):
            result = refused_by_sites(options, count)
            if head is None:
                head = [*result]
                print("  ".join(f"{word:>12}" for word in head))
            print("  ".join(f"{result[word]:>12}" for word in head), flush=True)
            runs.append(result["CPU us each"])
            if result["220 max ms"] > SITES_GREETING_SECONDS_MAX * 1e3:
                faults.append(f"a new client waited {result['220 max ms']} ms")
        costs.append(statistics.median(runs))
    if costs[1] > costs[0] * SITES_GROWTH_MAX:
        faults.append(f"a recipient costs {costs[1]} us with many sites and {costs[0]} with few")
    for fault in faults:
        print(f"  FAULT: sites: {fault}", flush=True)
    return 1 if faults else 0


def main():
    options = arguments()
    if not options.relay.exists():
        print(f"there is no {options.relay}", file=sys.stderr)
        return 2
    if options.disk and (os.geteuid() != 0 or not shutil.which("mkfs.ext4")):
        print("--disk needs root and mkfs.ext4", file=sys.stderr)
        return 2
    status, head = 0, None
    for name in options.case or CASES:
        try:
            if name == "sites":
                status = max(status, sites_case(options))
                continue
            result, faults = run_case(name, options)
        except (RuntimeError, AssertionError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        if head is None:
            head = [*result]
            print("  ".join(f"{word:>12}" for word in head))
        print("  ".join(f"{result[word]:>12}" for word in head), flush=True)
        for fault in faults:
            status = 1
            print(f"  FAULT: {name}: {fault}", flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
