"""Starts nsd and unbound on free loopback ports with the zones of this folder.

Prints `nsd=127.0.0.1:PORT unbound=127.0.0.1:PORT` when both answer, then `folder=`, where the zones
are, and `nsd_pid=` and `unbound_pid=`, so that a test may change and stop them. Ends both when its
standard input ends: so they cannot outlive the test that started them. A port given as argument is
unbound's. `python3 servers.py` by hand waits for Ctrl-D; `dig @127.0.0.1 -p PORT mx two.mail.test`
shows what they say.
"""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# Debian keeps daemons where a user's PATH does not.
os.environ["PATH"] += ":/usr/sbin:/sbin"
# One MX record each: far more than a datagram of 1232 bytes holds.
BIG_RECORDS = 60
ANSWERS_WITHIN_S = 15


def free_port():
    """A port that is free for both UDP and TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def big_zone():
    head = "$ORIGIN big.test.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 120\n  NS ns\nns A 127.0.0.1\n"
    names = [f"a-rather-long-name-of-a-mail-exchanger-{number}" for number in range(BIG_RECORDS)]
    records = [f"@ MX {number} {name}\n" for number, name in enumerate(names)]
    # The best host is there, so that mail can be delivered by this answer.
    return head + "".join(records) + f"{names[0]} A 127.0.0.2\n"


def answers(port):
    """Whether something on `port` answers a query for ns.mail.test A without an error."""
    name = b"\x02ns\x04mail\x04test\x00"
    query = struct.pack(">HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.5)
        udp.connect(("127.0.0.1", port))
        try:
            udp.send(query)
            return udp.recv(512)[3] & 0x0F == 0
        except OSError:
            return False


def wait_for(name, process, port):
    end = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{name} ended with status {process.returncode}")
        if answers(port):
            return
        time.sleep(0.05)
    sys.exit(f"{name} does not answer on port {port} within {ANSWERS_WITHIN_S} s")


def main():
    for program in ("nsd", "unbound"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-dns-"))
    ports = {"nsd": free_port(), "unbound": free_port(), "dead": free_port()}
    if len(sys.argv) > 1:
        ports["unbound"] = int(sys.argv[1])
    processes = []
    try:
        for zone in HERE.glob("*.zone"):
            shutil.copy(zone, folder)
        (folder / "big.test.zone").write_text(big_zone())
        for name, command in (("nsd", ["nsd", "-d"]), ("unbound", ["unbound", "-d"])):
            text = (HERE / f"{name}.conf").read_text()
            text = text.replace("{folder}", str(folder)).replace("{port}", str(ports[name]))
            text = text.replace("{nsd_port}", str(ports["nsd"]))
            text = text.replace("{dead_port}", str(ports["dead"]))
            path = folder / f"{name}.conf"
            path.write_text(text)
            process = subprocess.Popen(
                [*command, "-c", str(path)], stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
            processes.append(process)
            wait_for(name, process, ports[name])
        pids = f"nsd_pid={processes[0].pid} unbound_pid={processes[1].pid}"
        print(
            f"nsd=127.0.0.1:{ports['nsd']} unbound=127.0.0.1:{ports['unbound']} "
            f"folder={folder} {pids}",
            flush=True,
        )
        sys.stdin.read()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
