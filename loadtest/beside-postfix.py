#!/usr/bin/env python3
"""Measures Ringpost beside Postfix: same machine, same run, same disk, same foreign tools.

smtp-source -> relay -> smtp-sink, both from Postfix, in alternating rounds. Both relays make a
message durable before the 250. Absolute numbers belong to the machine; the ratio is what counts.
Must run as root, for Postfix does. Loopback only; everything is in a temporary folder.

Exit status: 0 measured, 2 not.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 30
POSTFIX_PORT, RINGPOST_PORT, SINK_PORT = 2601, 2602, 2626

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
syslog_name = beside
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:{sink}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtp_host_lookup = native
disable_dns_lookups = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
default_process_limit = 200
default_destination_concurrency_limit = 100
smtp_destination_concurrency_limit = 100
initial_destination_concurrency = 100
in_flow_delay = 0
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
"""

MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Trouble(Exception):
    """It could not be measured."""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", type=Path, default=ROOT / "target/release/ringpost",
                        help="the ringpost binary [target/release/ringpost]")
    parser.add_argument("--messages", "-m", type=int, default=10_000, help="a round [10000]")
    parser.add_argument("--sessions", "-s", type=int, default=100, help="of smtp-source [100]")
    parser.add_argument("--size", type=int, default=2048, help="of a message, in bytes [2048]")
    parser.add_argument("--rounds", type=int, default=3, help="of each relay [3]")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="of Ringpost [all]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting for Ringpost; connections to the sink are 100 as for Postfix")
    parser.add_argument("--round-time", type=float, default=300, help="seconds, at most [300]")
    parser.add_argument("--directory", type=Path, default=None,
                        help="where queue and spool are made: a real disk [temporary folder]")
    parser.add_argument("--only", choices=["postfix", "ringpost"], help="measure one alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs")
    options = parser.parse_args()
    if not 1 <= options.messages <= 10_000_000 or not 1 <= options.rounds <= 100:
        parser.error("--messages must be 1 to 10000000, --rounds 1 to 100")
    if not 1 <= options.sessions <= 1000 or options.sessions > options.messages:
        parser.error("--sessions must be 1 to 1000 and at most --messages")
    if options.only != "postfix" and not os.access(options.relay, os.X_OK):
        parser.error(f"{options.relay} is no program: build it, or use --only postfix")
    for tool in ["smtp-source", "smtp-sink"] + ["postfix"] * (options.only != "ringpost"):
        if not program(tool):
            parser.error(f"{tool} is not installed (package postfix)")
    if options.only != "ringpost" and os.geteuid() != 0:
        parser.error("Postfix must be started as root")
    return options


def program(name):
    return shutil.which(name, path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", ""))


def await_greeting(name, port, alive, log):
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
                if probe.recv(3) == b"220":
                    return
        except OSError:
            pass
        if not alive():
            break
        time.sleep(0.05)
    text = log.read_bytes()[-1500:].decode(errors="replace") if log.exists() else ""
    raise Trouble(f"{name} does not listen on port {port}: {text}")


def check_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as trouble:
            raise Trouble(f"port {port} is in use: {trouble}") from None


def processes():
    """Parent and CPU ticks of every process, its waited-for children included."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        # proc(5): the first field here is number 3; 14 to 17 are the times.
        found[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    return found


def family(pid, found):
    members = [pid]
    for member in members:
        members += [child for child, (parent, _) in found.items() if parent == member]
    return members


def cpu_seconds(pid):
    """Of `pid` and all that descends from it, running or ended. A process that ends between two
    calls moves from the sum of the running to its parent's sum of the ended: nothing is lost."""
    found = processes()
    if pid not in found:
        raise Trouble("the relay ended by itself")
    return sum(found[member][1] for member in family(pid, found)) / TICKS_PER_SECOND


def memory(pid):
    """Bytes that the processes hold now, shared pages counted once (PSS): the sum of their
    resident sizes would count Postfix's libraries some hundred times."""
    total = 0
    for member in family(pid, processes()):
        try:
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{member}/smaps_rollup").read_text(),
                              re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
        except OSError:
            pass
    return total


class Postfix:
    name, port = "Postfix", POSTFIX_PORT

    def __init__(self, folder, _options):
        self.folder = folder / "postfix"
        self.process = None
        config = self.folder / "config"
        for path in (config, self.folder / "queue", self.folder / "data"):
            path.mkdir(parents=True)
        shutil.chown(self.folder / "data", "postfix")
        (self.folder / "data").chmod(0o700)
        asked = subprocess.run([program("postconf"), "-d", "-h", "daemon_directory"],
                               capture_output=True, text=True, timeout=20, cwd="/")
        daemons = asked.stdout.strip() or "/usr/lib/postfix/sbin"
        names = {"folder": self.folder, "daemons": daemons, "sink": SINK_PORT}
        (config / "main.cf").write_text(MAIN_CF.format(**names))
        (config / "master.cf").write_text(MASTER_CF.format(port=self.port))
        self.config = config

    def call(self, verb):
        """Lets Postfix's own script do it; Postfix daemonizes."""
        with open(self.folder / "start.log", "ab") as log:
            return subprocess.run([program("postfix"), "-c", self.config, verb], stdout=log,
                                  stderr=log, stdin=subprocess.DEVNULL, timeout=60).returncode

    def master(self):
        try:
            return int((self.folder / "queue/pid/master.pid").read_text())
        except (OSError, ValueError):
            return None

    def start(self):
        if self.call("start") != 0:
            raise Trouble("Postfix does not start: " + (self.folder / "start.log").read_text())
        await_greeting(self.name, self.port, lambda: self.master() is not None,
                       self.folder / "postfix.log")
        self.pid = self.master()

    def stop(self):
        if self.master() is not None and self.call("stop") != 0:
            self.call("abort")

    def version(self):
        asked = subprocess.run([program("postconf"), "-c", self.config, "-h", "mail_version"],
                               capture_output=True, text=True, timeout=20)
        return f"Postfix {asked.stdout.strip()}"


class Ringpost:
    name, port = "Ringpost", RINGPOST_PORT

    def __init__(self, folder, options):
        self.folder = folder / "ringpost"
        self.folder.mkdir()
        self.options = options
        self.process = None

    def listeners(self):
        """The arguments that say where to listen."""
        return ["--listen", f"127.0.0.1:{self.port}"]

    def start(self):
        command = [self.options.relay, "serve", *self.listeners(),
                   "--spool", self.folder / "spool", "--smart-host", f"127.0.0.1:{SINK_PORT}",
                   "--cores", str(self.options.cores)]
        for setting in ["pool.connections_per_site=100", *self.options.set]:
            command += ["--set", setting]
        log = self.folder / "relay.log"
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        self.pid = self.process.pid
        await_greeting(self.name, self.port, lambda: self.process.poll() is None, log)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def version(self):
        asked = subprocess.run([self.options.relay, "--version"], capture_output=True, text=True,
                               timeout=20)
        return asked.stdout.strip() or "ringpost"


class Sink:
    """smtp-sink, and the number of messages that it has counted."""

    def __init__(self):
        check_free(SINK_PORT)
        # With a generous backlog; it drops its content.
        command = [program("smtp-sink"), "-c"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        self.process = subprocess.Popen([*command, f"127.0.0.1:{SINK_PORT}", "1000"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
        self.messages = 0
        self.last = 0.0
        self.said = b""
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        rest = b""
        while block := os.read(self.process.stdout.fileno(), 65536):
            now = time.monotonic()
            self.said = (self.said + block)[-500:]
            rest = (rest + block)[-200_000:]
            *whole, rest = re.split(rb"[\r\n]", rest)
            for line in reversed(whole):
                if found := re.search(rb"mesg=(\d+)", line):
                    if int(found[1]) != self.messages:
                        self.messages, self.last = int(found[1]), now
                    break

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def one_round(relay, sink, options):
    """One load through one relay: accepted and delivered per second, CPU seconds per 1000."""
    before, had = cpu_seconds(relay.pid), sink.messages
    command = [program("smtp-source"), "-d", "-N", "-s", str(options.sessions),
               "-m", str(options.messages), "-l", str(options.size),
               "-f", "a@sender.test", "-t", "u@sink.test", f"127.0.0.1:{relay.port}"]
    begin = time.monotonic()
    try:
        sent = subprocess.run(command, capture_output=True, timeout=options.round_time)
    except subprocess.TimeoutExpired:
        raise Trouble(f"{relay.name} took not all messages in {options.round_time} s") from None
    accepted = time.monotonic() - begin
    if sent.returncode != 0:
        raise Trouble(f"smtp-source to {relay.name}: {sent.stderr.decode(errors='replace')}")
    while sink.messages - had < options.messages:
        if sink.process.poll() is not None:
            raise Trouble("smtp-sink ended: " + sink.said.decode(errors="replace"))
        if time.monotonic() - begin > options.round_time:
            raise Trouble(f"{relay.name} delivered {sink.messages - had} of {options.messages} "
                          f"messages in {options.round_time} s")
        time.sleep(0.01)
    delivered = sink.last - begin
    # The outcomes still have to reach the disk or the queue file its end: that is work, too.
    time.sleep(1.0)
    doubled = sink.messages - had - options.messages
    cpu = cpu_seconds(relay.pid) - before
    return {
        "accepted": options.messages / accepted,
        "delivered": options.messages / delivered,
        "cpu": cpu * 1000 / options.messages,
        "doubled": doubled,
        "memory": memory(relay.pid) / 2**20,
    }


def machine(folder):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True)
    return (f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, "
            f"spool on {kind.stdout.strip()}")


def table(results, versions, options, folder):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{date}; {machine(folder)}; {', '.join(versions)}; smtp-source -d -s "
          f"{options.sessions} -m {options.messages} -l {options.size}, median of "
          f"{options.rounds} alternating rounds (lowest to highest)\n")
    columns = [("accepted/s", "accepted", 0), ("delivered/s", "delivered", 0),
               ("CPU s per 1000", "cpu", 3), ("MiB after", "memory", 0)]
    print("| relay | " + " | ".join(title for title, _, _ in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    medians = {}
    for name, rounds in results.items():
        cells = []
        for _, key, digits in columns:
            values = [one[key] for one in rounds]
            medians[name, key] = statistics.median(values)
            cells.append(f"{medians[name, key]:.{digits}f} ({min(values):.{digits}f} to "
                         f"{max(values):.{digits}f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    if len(results) == 2:
        ratios = [medians["Ringpost", key] / max(medians["Postfix", key], 1e-9)
                  for _, key, _ in columns]
        print("| ratio | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


def measure(options, folder):
    kinds = {"postfix": [Postfix], "ringpost": [Ringpost]}.get(options.only, [Postfix, Ringpost])
    for kind in kinds:
        check_free(kind.port)
    sink = None
    relays = []
    results = {}
    try:
        sink = Sink()
        for kind in kinds:
            relay = kind(folder, options)
            relays.append(relay)
            relay.start()
        await_greeting("smtp-sink", SINK_PORT, lambda: sink.process.poll() is None, folder / "-")
        for number in range(1, options.rounds + 1):
            for relay in relays:
                one = one_round(relay, sink, options)
                results.setdefault(relay.name, []).append(one)
                print(f"round {number} {relay.name}: accepted {one['accepted']:.0f}/s, delivered "
                      f"{one['delivered']:.0f}/s, {one['cpu']:.3f} CPU s per 1000"
                      + (f", {one['doubled']} doubled" if one["doubled"] else ""),
                      file=sys.stderr)
        versions = [relay.version() for relay in relays]
    finally:
        for relay in relays:
            relay.stop()
        if sink is not None:
            sink.stop()
    table(results, versions, options, folder)


def main():
    options = arguments()
    bound = int(2 * options.rounds * (options.round_time + 5) + 4 * START_SECONDS_MAX)

    def late(*_):
        raise Trouble(f"not done after {bound} s")

    def stopped(*_):
        raise Trouble("stopped")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, stopped)
    signal.alarm(bound)
    folder = Path(tempfile.mkdtemp(prefix="ringpost-beside-", dir=options.directory))
    # The postfix user must be able to reach its queue.
    folder.chmod(0o755)
    kept = options.keep
    try:
        measure(options, folder)
        return 0
    except (Trouble, OSError, subprocess.SubprocessError, KeyboardInterrupt) as trouble:
        kept = True
        print(f"beside-postfix: {trouble or 'stopped'}", file=sys.stderr)
        return 2
    finally:
        signal.alarm(0)
        if kept:
            print(f"beside-postfix: logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
