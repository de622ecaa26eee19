"""Domains without an answer from the DNS do not delay others.

The name server here is a script: it answers for some names and is silent about all others, which no
real one does on request.
"""

import smtplib
import socket
import struct
import threading
import time

from harness import Relay, Sink, main, wait_until

SENDER = "a@sender.good.test"
SILENT_DOMAINS = 10_000
# Longest time for mail to a new domain while all of them wait.
GOOD_MAIL_WITHIN_S = 2.0


class PartlySilentServer:
    """Answers A queries for subdomains of good.test with 127.0.0.1 and others with no records; does
    not answer for other names."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        self.silent_about = set()
        self.queries = 0

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(4096)
                answer = self._answer(query)
                if answer:
                    self.socket.sendto(answer, peer)
            except OSError:
                return

    def _answer(self, query):
        self.queries += 1
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        question = query[12 : at + 5]
        (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
        if labels[-2:] != ["good", "test"]:
            self.silent_about.add(".".join(labels))
            return None
        records = b""
        if kind == 1:
            records = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + bytes([127, 0, 0, 1])
        header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if records else 0, 0, 0)
        return header + question + records


def send(port, recipients):
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail(SENDER, recipients, b"Subject: x\r\n\r\nx\r\n")


def flood(port, recipients):
    """Sends one message to all of them, 500 at a time, as fast as the relay takes them."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo()
        for first in range(0, len(recipients), 500):
            some = recipients[first : first + 500]
            client.docmd(f"MAIL FROM:<{SENDER}>")
            client.send("".join(f"RCPT TO:<{to}>\r\n" for to in some))
            assert all(client.getreply()[0] == 250 for _ in some)
            assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250


def delivered_after(relay, sink, recipient):
    """Seconds until mail to `recipient` is at the sink."""
    began = time.monotonic()
    send(relay.port, [recipient])
    wait_until(
        f"mail for {recipient}",
        lambda: any(recipient in recipients for _, recipients, _ in list(sink.messages)),
    )
    return time.monotonic() - began


def test_mail_to_a_new_domain_goes_while_10000_domains_have_no_answer():
    with PartlySilentServer() as server, Sink() as sink:
        relay = Relay(
            "--set", f"dns.servers={server.address}", "--set", f"route.port={sink.port}",
            retry_first="10s",
        )
        with relay:
            flood(relay.port, [f"x@d{n}.silent.test" for n in range(SILENT_DOMAINS)])
            took = {}
            # At once, while most were not looked up yet; then while they wait for slow lookups; then
            # during their next attempts.
            for pause in (0, 3, 12):
                time.sleep(pause)
                domain = f"new{pause}.good.test"
                took[domain] = delivered_after(relay, sink, f"b@{domain}")
                took[domain + " again"] = delivered_after(relay, sink, f"c@{domain}")
            assert max(took.values()) < GOOD_MAIL_WITHIN_S, took
            wait_until(
                "all silent domains were asked for",
                lambda: len(server.silent_about) >= SILENT_DOMAINS, 60,
            )
            waiting = relay.queue("--domain", "d5000.silent.test")
            assert len(waiting) == 1, waiting
            assert not relay.events("bounced") and not relay.events("expired")


def test_a_dead_name_server_does_not_delay_every_lookup():
    with PartlySilentServer() as server, Sink() as sink:
        dead = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        dead.bind(("127.0.0.1", 0))
        servers = "127.0.0.1:%d,%s" % (dead.getsockname()[1], server.address)
        relay = Relay(
            "--set", f"dns.servers={servers}", "--set", f"route.port={sink.port}", cores="1"
        )
        with relay:
            took = [delivered_after(relay, sink, f"b@n{n}.good.test") for n in range(20)]
            assert took[0] < 4.0 and max(took[1:]) < 0.9, took
        dead.close()


TESTS = [
    test_mail_to_a_new_domain_goes_while_10000_domains_have_no_answer,
    test_a_dead_name_server_does_not_delay_every_lookup,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
