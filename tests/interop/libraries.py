"""Clients that are libraries: aiosmtplib of Python and Net::SMTP of Perl."""

import asyncio
import os
import pathlib
import tempfile
import uuid

try:
    import aiosmtplib
except ImportError:
    if os.environ.get("RINGPOST_CI_NO_INSTALL") != "1":
        raise
    aiosmtplib = None

from encryption import trusting
from harness import Relay, Sink, free_port, main, need, without_trace
from exim_opensmtpd import LARGE, SMALL, has_lines, messages_and_reports, listeners
from peers import PROGRAMS, run
from inbound_esmtp import messages_of
from users import relay_with_users


def many_connections_of_aiosmtplib_at_once():
    """300 concurrent connections, three messages on each."""

    async def one(port, number):
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, timeout=30) as client:
            for message in range(3):
                text = b"Subject: %d\r\n\r\n.%d\r\n" % (number, message)
                to = [f"r{number}@sink.test"]
                refused, said = await client.sendmail("a@sender.test", to, text)
                assert not refused and said.startswith("2.0.0 "), (refused, said)

    async def all_at_once(port):
        await asyncio.gather(*(one(port, number) for number in range(300)))

    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        asyncio.run(all_at_once(relay.port))
        sink.wait(900, 60)
        relay.wait_empty()
        arrived = sorted(without_trace(content) for _, _, content in sink.messages)
        assert arrived == sorted(b"Subject: %d\r\n\r\n.%d\r\n" % (number, message)
                                 for number in range(300) for message in range(3))


def aiosmtplib_logs_in_under_tls():
    """STARTTLS, which it uses by itself, and TLS from the start; PLAIN, LOGIN; DSN and SMTPUTF8."""
    port = free_port()

    async def post(way, method, password="pencil"):
        async with aiosmtplib.SMTP(hostname="127.0.0.1", timeout=20, **way) as client:
            # After the handshake it sends EHLO only if necessary.
            await client.ehlo()
            assert client.supports_extension("REQUIRETLS") and client.supports_extension("CHUNKING")
            # Both mechanisms are offered; it would use only the first.
            await getattr(client, f"auth_{method}")("joe", password)
            for content, mail in ((SMALL, ["ENVID=x", "SMTPUTF8"]), (LARGE, [])):
                refused, _ = await client.sendmail(
                    "a@sender.test", ["b@sink.test"], content,
                    mail_options=["BODY=8BITMIME", *mail], rcpt_options=["NOTIFY=SUCCESS"])
                assert not refused, refused

    with Sink() as sink:
        with relay_with_users(sink=sink, text=listeners(port), host="127.0.0.1") as (relay, root):
            ways = [{"port": relay.port, "start_tls": None}, {"port": port, "use_tls": True}]
            for way in ways:
                way["tls_context"] = trusting(root)
                for method in ("plain", "login"):
                    asyncio.run(post(way, method))
                try:
                    asyncio.run(post(way, "plain", "pencel"))
                    raise AssertionError("a wrong password was accepted")
                except aiosmtplib.SMTPAuthenticationError as error:
                    assert error.code == 535 and error.message.startswith("5.7.8 "), error
            sink.wait(16)
            messages, reports = messages_and_reports(sink)
            assert sorted(map(without_trace, messages)) == sorted([SMALL, LARGE] * 4)
            assert len(reports) == 8, len(reports)
            assert sum("\r\nOriginal-Envelope-Id: x" in one for one in reports) == 4
            events = relay.wait_event("received", 8)
            came = {(event.get("protocol"), event.get("user")) for event in events}
            assert came >= {("UTF8SMTPSA", "joe"), ("ESMTPSA", "joe")}, came


def refusals_reach_aiosmtplib():
    async def post(port):
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, timeout=20) as client:
            to = ["b@sink.test", "b@@sink.test"]
            refused, _ = await client.sendmail("a@sender.test", to, SMALL)
            assert refused["b@@sink.test"].code == 501, refused
            try:
                await client.sendmail("a@sender.test", ["b@sink.test"], LARGE)
                raise AssertionError("too large a message was taken")
            except aiosmtplib.SMTPResponseException as error:
                assert error.code == 552 and error.message.startswith("5.3.4 "), error
            assert not (await client.sendmail("a@sender.test", ["c@sink.test"], SMALL))[0]

    small = ["--set", "session.message_bytes_max=100KiB"]
    with Sink() as sink, Relay(*small, smart_host=sink.port) as relay:
        asyncio.run(post(relay.port))
        assert sorted(to for _, to, _ in sink.wait(2)) == [["b@sink.test"], ["c@sink.test"]]


def net_smtp(port, *messages):
    need("perl")
    with tempfile.TemporaryDirectory() as folder:
        for message in messages:
            chunks, message["chunks"] = message["chunks"], []
            for chunk in chunks:
                path = pathlib.Path(folder, str(uuid.uuid4()))
                path.write_bytes(chunk)
                message["chunks"].append(str(path))
        results = run(["perl", str(PROGRAMS / "net_smtp.pl")], {"port": port, "messages": messages})
    assert len(results) == len(messages), results
    return results


def perl_message(*chunks, to=("b@sink.test",), mail=None, rcpt=None):
    return {"from": "a@sender.test", "to": list(to), "chunks": list(chunks),
            "mail": mail or {}, "rcpt": rcpt or {}}


def net_smtp_of_perl_sends():
    """DATA with 8-bit content and DSN; a bad recipient among good ones, and too large a message."""
    small = ["--set", "session.message_bytes_max=5MiB"]
    with Sink() as sink, Relay(*small, smart_host=sink.port) as relay:
        wish = {"Bits": "8", "Envelope": "Q+1 2", "Return": "HDRS"}
        for_it = {"Notify": ["SUCCESS"], "ORcpt": "rfc822;old@x.test"}
        taken, partly, declared, sent = net_smtp(
            relay.port, perl_message(SMALL, mail=wish, rcpt=for_it),
            perl_message(LARGE, to=["b@sink.test", "b@@sink.test", "c@sink.test"]),
            perl_message(SMALL, mail={"Size": 10_000_000}), perl_message(LARGE * 2))
        assert taken["code"] == "250" and partly["code"] == "250", (taken, partly)
        assert partly["taken"] == ["b@sink.test", "c@sink.test"], partly
        for one in (declared, sent):
            assert one["code"] == "552" and "5.3.4 " in one["said"], one
        sink.wait(3)
        messages, reports = messages_and_reports(sink)
        assert sorted(map(without_trace, messages)) == sorted([SMALL, LARGE])
        has_lines(*reports, "Action: relayed", "Original-Envelope-Id: Q+1 2",
                  "Original-Recipient: rfc822;old@x.test")


def net_smtp_of_perl_sends_chunks():
    """BDAT and BINARYMIME, relayed to another Ringpost with the same extensions."""
    chunks = [b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n.\r\n",
              bytes(range(256)) * 5000, b".", b"bare\nand\rno end"]
    with Relay(smart_host=free_port()) as behind, Relay(smart_host=behind.port) as relay:
        sent, empty = net_smtp(relay.port, perl_message(*chunks, mail={"Bits": "binary"}),
                               perl_message(b"Subject: y\r\n\r\n", b"", mail={"Bits": "binary"}))
        assert sent["code"] == "250" and empty["code"] == "250", (sent, empty)
        relay.wait_event("delivered", 2)
        behind.wait_event("received", 2)
        messages = messages_of(behind)
        assert sorted(one.endswith(b"".join(chunks)) for one in messages) == [False, True]
        assert sorted(one.endswith(b"Subject: y\r\n\r\n") for one in messages) == [False, True]


TESTS = [
    net_smtp_of_perl_sends,
    net_smtp_of_perl_sends_chunks,
]

OF_AIOSMTPLIB = [
    many_connections_of_aiosmtplib_at_once,
    aiosmtplib_logs_in_under_tls,
    refusals_reach_aiosmtplib,
]

if aiosmtplib:
    TESTS += OF_AIOSMTPLIB
else:
    print(f"skipped {len(OF_AIOSMTPLIB)} tests: aiosmtplib is not installed", flush=True)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
