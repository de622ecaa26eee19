"""No descriptor is left for a while: nothing ends because of that, and all goes on when it is over.

What needs a descriptor: a client's connection, a look-up, a connection to a host, a segment that is
read, a piece of streamed content, the next event file.
"""

import contextlib
import os
import resource
import smtplib
import time

from dns_fairness import PartlySilentServer
from harness import Relay, Sink, main, wait_until

FINAL = ("bounced", "expired", "dropped", "quarantined")


@contextlib.contextmanager
def no_descriptors(relay):
    """No file or socket can be opened by the relay meanwhile."""
    pid = relay.process.pid
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limit[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


def text(number, size):
    return b"Subject: %d\r\n\r\n" % number + (b"y" * 70 + b"\r\n") * (size // 72)


def accepted_without_descriptors(*flags, domain, smart_host=None):
    """Mail that is accepted while there is none: small, streamed, and to users who are refused."""
    small, large, refused = 150, 8, 10
    reply = lambda step, address: (
        "550 5.1.1 No such user" if step == "rcpt" and address.startswith("no") else None)
    with Sink(reply=reply) as sink:
        flags = [flag.replace("SINK", str(sink.port)) for flag in flags]
        with Relay("--set", "spool.stream_threshold=64KiB", "--set", "event.rotate_bytes=64KiB",
                   "--set", "retry.max=2s", "--set", "delivery.connect_timeout=5s",
                   "--set", "core_default.hot_bytes_max=64KiB", *flags, cores="1",
                   smart_host=sink.port if smart_host else None) as relay:
            sent = 0
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                client.ehlo()
                with no_descriptors(relay):
                    for count, size, who in (
                        (small, 300, "b"), (large, 300_000, "b"), (refused, 300, "no"),
                    ):
                        for _ in range(count):
                            to = f"{who}{sent}@{domain(sent)}"
                            client.sendmail("a@" + domain(0), [to], text(sent, size))
                            sent += 1
                    # Longer than a connection waits for a descriptor.
                    time.sleep(8)
                    # One or the other connection takes a descriptor that the relay gave back.
                    ended = [event for event in relay.events()
                             if event["event"] in FINAL and event.get("code") != 550]
                    assert not ended, ended[:2]
                    assert len(sink.messages) < sent, "there were descriptors"
                    assert relay.process.poll() is None
            sink.wait(small + large + refused, 60)
            relay.wait_empty(60)
            reports = [m for m in sink.messages if m[0] == ""]
            numbers = sorted(int(content.split(b"Subject: ", 1)[1].split()[0])
                             for sender, _, content in sink.messages if sender)
            assert numbers == list(range(small + large)), numbers
            assert len(reports) == refused, len(reports)


def a_smart_host_without_descriptors():
    accepted_without_descriptors(domain=lambda _: "sink.test", smart_host=True)


def domains_of_the_dns_without_descriptors():
    with PartlySilentServer() as server:
        accepted_without_descriptors(
            "--set", f"dns.servers={server.address}", "--set", "route.port=SINK",
            domain=lambda number: f"d{number % 40}.good.test",
        )


def what_waits_in_the_spool_without_descriptors():
    """Mail that has to be read again for its next attempt, and for its report."""
    count = 60
    refuse = ["451 4.2.0 Later"]
    reply = lambda step, address: refuse[0] if step == "rcpt" and "@sink" in address else None
    with Sink(reply=reply) as sink:
        with Relay("--set", "spool.stream_threshold=64KiB", "--set", "retry.max=1s", cores="1",
                   smart_host=sink.port) as relay:
            for number in range(count):
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                    client.sendmail("a@sender.test", [f"b{number}@sink.test"],
                                    text(number, 300 if number % 4 else 200_000))
            tried = lambda: len({event["to"] for event in relay.events("deferred")})
            wait_until("all were tried", lambda: tried() == count)
            relay.restart()
            with no_descriptors(relay):
                refuse[0] = "550 5.1.1 No such user"
                time.sleep(6)
            wait_until("all are reported", lambda: len(sink.messages) == count, 60)
            relay.wait_empty(60)
            # Each gives back the header, which is in the content.
            numbers = sorted(int(content.rsplit(b"Subject: ", 1)[1].split()[0])
                             for _, _, content in sink.messages)
            assert numbers == list(range(count)), numbers
            ended = [event["to"] for event in relay.events() if event["event"] in FINAL]
            assert len(ended) == len(set(ended)) == count, len(ended)


TESTS = [
    a_smart_host_without_descriptors, domains_of_the_dns_without_descriptors,
    what_waits_in_the_spool_without_descriptors,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
