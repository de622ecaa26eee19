#!/usr/bin/env python3
"""Measures TLS of Ringpost beside Postfix: same machine, same run, same clients, same certificate.

Connections: connect, TLS 1.3 from the first byte, greeting, QUIT; anew, resumed by ticket, and
without TLS, so that what TLS adds can be separated from the rest. Content: large messages over
persistent sessions with TLS and without, to smtp-sink. Clients are Python processes with OpenSSL;
they share the CPU with the relays, so CPU per handshake and per GB says more than the rates.
Rounds alternate between the relays, and the ratio is what counts. Must run as root, for Postfix
does. Loopback only; everything is in a temporary folder.

Exit status: 0 measured, 2 not.
"""

import argparse
import datetime
import importlib.util
import multiprocessing
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS_MAX = 30
TLS_PORTS = {"Postfix": 2603, "Ringpost": 2604}
KEYS = {
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "rsa": ["-newkey", "rsa:2048"],
}
NAMES = {"ecdsa": "ECDSA P-256", "rsa": "RSA 2048"}


def script(name):
    """The module in a script beside this one, whose name `import` cannot say."""
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"),
                                                  Path(__file__).with_name(name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


beside = script("beside-postfix")
Trouble = beside.Trouble

# Tickets are Postfix's default and preferred to a cache on the server.
MAIN_CF = """\
smtpd_tls_chain_files = {chain}
smtpd_tls_mandatory_protocols = >=TLSv1.3
"""

MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt
"""

CONFIG = """\
[[listener]]
address = "127.0.0.1:{plain}"
tls = "off"
[[listener]]
address = "127.0.0.1:{port}"
tls = "implicit"
[tls]
cert = "{cert}"
key = "{key}"
min_version = "1.3"
"""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", type=Path, default=ROOT / "target/release/ringpost",
                        help="the ringpost binary [target/release/ringpost]")
    parser.add_argument("--handshakes", "-n", type=int, default=2000, help="a round [2000]")
    # Postfix's greeting waits for the acknowledgement of its ticket (Nagle), which the client's
    # kernel delays by 40 ms: with few clients the clock would be measured.
    parser.add_argument("--clients", type=int, default=48, help="processes that connect [48]")
    parser.add_argument("--messages", "-m", type=int, default=64, help="a round [64]")
    parser.add_argument("--sessions", "-s", type=int, default=8,
                        help="of messages, each a process [8]")
    parser.add_argument("--size", type=int, default=5_000_000, help="of a message [5000000]")
    parser.add_argument("--rounds", type=int, default=3, help="of each relay [3]")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="of Ringpost [all]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting for Ringpost")
    parser.add_argument("--certificates", nargs="+", choices=list(KEYS), default=list(KEYS),
                        help="of these kinds, one after the other [ecdsa rsa]")
    parser.add_argument("--only", choices=["handshakes", "content"], help="measure one alone")
    parser.add_argument("--round-time", type=float, default=120, help="seconds, at most [120]")
    parser.add_argument("--directory", type=Path, default=None,
                        help="where queue and spool are made: a real disk [temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs")
    options = parser.parse_args()
    if not 1 <= options.clients <= 100 or not 1 <= options.rounds <= 100:
        parser.error("--clients and --rounds must be 1 to 100")
    # A connection keeps its port for a minute, and there are 28,000 of them.
    if not options.clients <= options.handshakes <= 20_000:
        parser.error("--handshakes must be --clients to 20000")
    if not 1 <= options.sessions <= min(options.messages, options.clients):
        parser.error("--sessions must be 1 to --messages and --clients")
    if options.messages > 10_000:
        parser.error("--messages must be at most 10000")
    if not 1000 <= options.size <= 9_000_000:
        parser.error("--size must be 1000 to 9000000: Postfix takes 10 MB")
    if not os.access(options.relay, os.X_OK):
        parser.error(f"{options.relay} is no program: build it")
    for tool in ["postfix", "smtp-sink", "openssl"]:
        if not beside.program(tool):
            parser.error(f"{tool} is not installed")
    if os.geteuid() != 0:
        parser.error("Postfix must be started as root")
    return options


def certificate(kind, folder):
    """Files with a certificate, its key, and both."""
    folder.mkdir()
    cert, key, chain = folder / "cert.pem", folder / "key.pem", folder / "chain.pem"
    subprocess.run([beside.program("openssl"), "req", "-x509", *KEYS[kind], "-nodes", "-days", "2",
                    "-subj", "/CN=relay.test", "-addext", "subjectAltName=DNS:relay.test",
                    "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    chain.write_bytes(key.read_bytes() + cert.read_bytes())
    chain.chmod(0o600)
    return cert, key, chain


class Postfix(beside.Postfix):
    def __init__(self, folder, options, files):
        super().__init__(folder, options)
        with open(self.config / "main.cf", "a") as out:
            out.write(MAIN_CF.format(chain=files[2]))
        with open(self.config / "master.cf", "a") as out:
            out.write(MASTER_CF.format(port=TLS_PORTS[self.name]))


class Ringpost(beside.Ringpost):
    def __init__(self, folder, options, files):
        super().__init__(folder, options)
        self.config = self.folder / "ringpost.toml"
        self.config.write_text(CONFIG.format(plain=self.port, port=TLS_PORTS[self.name],
                                             cert=files[0], key=files[1]))

    def listeners(self):
        return ["--config", self.config]


# What follows up to `upload` runs in the clients.


class Client:
    """Makes connections to one port, of one kind: "plain", "full" or "resumed"."""

    def __init__(self, port, kind):
        self.port, self.kind = port, kind
        self.session = None
        self.resumed = 0
        if kind == "plain":
            return
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Checking the certificate would cost the clients alone, and CPU is shared.
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def connect(self):
        """Connects and reads the greeting."""
        try:
            return self.greeted()
        except TimeoutError as trouble:
            raise ConnectionError(f"{self.at}: {trouble}") from None

    def greeted(self):
        self.at = "connection"
        line = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS_MAX)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.at = "handshake"
        if self.kind != "plain":
            line = self.context.wrap_socket(line, server_hostname="relay.test",
                                            session=self.session)
        self.at = "greeting"
        reply(line, b"220")
        if self.kind == "resumed":
            self.resumed += line.session_reused
            # The ticket came before the greeting.
            if line.session.has_ticket:
                self.session = line.session
        return line


def reply(line, expected):
    """Reads one reply, of one line or more."""
    got = b""
    while not (got.endswith(b"\r\n") and got.splitlines()[-1][3:4] != b"-"):
        block = line.recv(4096)
        if not block:
            raise ConnectionError(f"closed after {got!r}")
        got += block
    if not got.startswith(expected):
        raise ConnectionError(f"{expected.decode()} expected: {got[:200]!r}")


def ask(line, command, expected):
    line.sendall(command + b"\r\n")
    reply(line, expected)


def shake(port, kind, count):
    """Makes so many connections; returns what was spoken."""
    client = Client(port, kind)
    spoken = None
    if kind == "resumed":
        with client.connect() as line:
            ask(line, b"QUIT", b"221")
    client.resumed = 0
    for _ in range(count):
        with client.connect() as line:
            ask(line, b"QUIT", b"221")
            spoken = "no TLS" if kind == "plain" else " ".join(line.cipher()[1::-1])
    if client.resumed != (count if kind == "resumed" else 0):
        raise ConnectionError(f"{client.resumed} of {count} {kind} handshakes were resumed")
    return spoken


def upload(port, kind, count, size):
    """Sends so many messages over one session."""
    text = (b"Subject: large\r\n\r\n" + (b"0123456789abcdef" * 4 + b"\r\n") * (size // 66))
    with Client(port, kind).connect() as line:
        ask(line, b"EHLO client.test", b"250")
        for _ in range(count):
            ask(line, b"MAIL FROM:<a@sender.test>", b"250")
            ask(line, b"RCPT TO:<u@sink.test>", b"250")
            ask(line, b"DATA", b"354")
            # One write is one call of OpenSSL, which makes records of it; 64 KiB as a real one.
            for begin in range(0, len(text), 65536):
                line.sendall(text[begin:begin + 65536])
            ask(line, b".", b"250")
        ask(line, b"QUIT", b"221")
    return len(text) * count


def shares(total, parts):
    return [total // parts + (number < total % parts) for number in range(parts)]


def everyone(pool, options, relay, function, clients, total, *arguments):
    """Lets so many clients do their share: their answers, and how long it took."""
    begin = time.monotonic()
    work = [pool.submit(function, *arguments[:2], share, *arguments[2:])
            for share in shares(total, clients)]
    try:
        answers = [one.result(timeout=max(begin + options.round_time - time.monotonic(), 0.001))
                   for one in work]
    except OSError as trouble:
        # A client's own time-out is one of these, too.
        raise Trouble(f"{relay.name}, {function.__name__} {arguments[1]}: {trouble}") from None
    return answers, time.monotonic() - begin


def port(relay, kind):
    return relay.port if kind == "plain" else TLS_PORTS[relay.name]


def handshakes(pool, options, relay, kind, count):
    before = beside.cpu_seconds(relay.pid)
    answers, took = everyone(pool, options, relay, shake, options.clients, count,
                             port(relay, kind), kind)
    # Processes that end come to the account of their parent.
    time.sleep(0.2)
    cpu = beside.cpu_seconds(relay.pid) - before
    return {"rate": count / took, "cpu": cpu * 1000 / count, "spoken": answers[0]}


def content(pool, sink, options, relay, kind, count):
    before, had = beside.cpu_seconds(relay.pid), sink.messages
    answers, took = everyone(pool, options, relay, upload, options.sessions, count,
                             port(relay, kind), kind, options.size)
    end = time.monotonic() + options.round_time
    while sink.messages - had < count:
        if time.monotonic() > end or sink.process.poll() is not None:
            raise Trouble(f"{relay.name} delivered {sink.messages - had} of {count} messages")
        time.sleep(0.01)
    # Outcomes reach the disk, queue files end: that is work, too.
    time.sleep(1.0)
    cpu = beside.cpu_seconds(relay.pid) - before
    return {"rate": sum(answers) / 1e6 / took, "cpu": cpu * 1e9 / sum(answers)}


def row(title, results, units, digits):
    """One line of the table: median (lowest to highest) of both relays, and their ratio."""
    cells = []
    for key, unit in units.items():
        medians = {}
        for name in ("Postfix", "Ringpost"):
            values = [one[key] for one in results[name]]
            medians[name] = statistics.median(values)
            cells.append(f"{medians[name]:.{digits[key]}f} ({min(values):.{digits[key]}f} to "
                         f"{max(values):.{digits[key]}f})")
        cells.append(f"{medians['Ringpost'] / max(medians['Postfix'], 1e-9):.2f}")
    print(f"| {title} | " + " | ".join(cells) + " |")


def measure(options, folder, pool):
    for used in [beside.POSTFIX_PORT, beside.RINGPOST_PORT, *TLS_PORTS.values()]:
        beside.check_free(used)
    rows, versions, spoken = {}, [], {}
    sink = beside.Sink()
    try:
        beside.await_greeting("smtp-sink", beside.SINK_PORT, lambda: sink.process.poll() is None,
                              folder / "-")
        for number, kind in enumerate(options.certificates):
            place = folder / kind
            place.mkdir()
            files = certificate(kind, place / "tls")
            relays = []
            try:
                for one in (Postfix, Ringpost):
                    relays.append(one(place, options, files))
                    relays[-1].start()
                versions = [relay.version() for relay in relays]
                if options.only != "content":
                    modes = ["full", "resumed"] + ["plain"] * (number == 0)
                    for relay in relays:
                        for mode in modes:
                            handshakes(pool, options, relay, mode, 2 * options.clients)
                    rounds(relays, rows, modes, kind, options, lambda relay, mode: handshakes(
                        pool, options, relay, mode, options.handshakes))
                    for relay in relays:
                        spoken[relay.name] = rows["full", kind][relay.name][0]["spoken"]
                # What TLS costs the content does not depend on the certificate.
                if options.only != "handshakes" and number == 0:
                    for relay in relays:
                        content(pool, sink, options, relay, "full", options.sessions)
                    modes = {"content with TLS": "full", "content without": "plain"}
                    rounds(relays, rows, list(modes), None, options, lambda relay, mode: content(
                        pool, sink, options, relay, modes[mode], options.messages))
            finally:
                for relay in relays:
                    relay.stop()
    finally:
        sink.stop()
    table(rows, versions, spoken, options, folder)


def rounds(relays, rows, modes, kind, options, one):
    for number in range(1, options.rounds + 1):
        for mode in modes:
            for relay in relays:
                got = one(relay, mode)
                rows.setdefault((mode, kind), {}).setdefault(relay.name, []).append(got)
                what = f"{NAMES[kind]}, {mode}" if kind and mode != "plain" else mode
                print(f"round {number} {relay.name} {what}: "
                      f"{got['rate']:.0f} {'/s' if kind else 'MB/s'}, {got['cpu']:.3f} CPU s per "
                      f"{'1000' if kind else 'GB'}", file=sys.stderr)


def table(rows, versions, spoken, options, folder):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    said = "; ".join(f"{name} {what}" for name, what in spoken.items())
    print(f"{date}; {beside.machine(folder)}; {', '.join(versions)}; {said or 'TLS 1.3'}; "
          f"{ssl.OPENSSL_VERSION} in clients; {options.handshakes} connections of "
          f"{options.clients} clients, {options.messages} messages of {options.size} bytes in "
          f"{options.sessions} sessions a round, median of {options.rounds} alternating rounds "
          "(lowest to highest)\n")
    parts = [("connections", "/s", "CPU s per 1000", [one for one in rows if one[1]]),
             ("content", "MB/s", "CPU s per GB", [one for one in rows if not one[1]])]
    for title, rate, cpu, keys in parts:
        if not keys:
            continue
        print(f"| {title} | Postfix {rate} | Ringpost {rate} | ratio | Postfix {cpu} | "
              f"Ringpost {cpu} | ratio |\n| --- |" + " ---: |" * 6)
        for mode, kind in keys:
            name = {"full": f"{NAMES.get(kind)}, anew", "resumed": f"{NAMES.get(kind)}, resumed",
                    "plain": "without TLS"}.get(mode, mode.removeprefix("content "))
            row(name, rows[mode, kind], {"rate": rate, "cpu": cpu}, {"rate": 0, "cpu": 3})
        print()


def main():
    options = arguments()
    # In the worst case every round is at its bound.
    kinds = 2 * len(options.certificates) + 1 + 2
    bound = int(2 * kinds * (options.rounds + 1) * (2 * options.round_time + 5))

    def late(*_):
        raise Trouble(f"not done after {bound} s")

    def stopped(*_):
        raise Trouble("stopped")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, stopped)
    signal.alarm(bound)
    folder = Path(tempfile.mkdtemp(prefix="ringpost-tls-", dir=options.directory))
    # The postfix user must be able to reach its queue.
    folder.chmod(0o755)
    kept = options.keep
    pool = ProcessPoolExecutor(options.clients, mp_context=multiprocessing.get_context("spawn"))
    try:
        measure(options, folder, pool)
        return 0
    except (Trouble, OSError, subprocess.SubprocessError, KeyboardInterrupt) as trouble:
        kept = True
        print(f"tls-beside-postfix: {trouble or 'stopped'}", file=sys.stderr)
        return 2
    finally:
        signal.alarm(0)
        pool.shutdown(wait=False, cancel_futures=True)
        if kept:
            print(f"tls-beside-postfix: logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
