"""LMTP, limits and extensions with next hops."""

import email.message
import email.policy
import pathlib
import smtplib
import subprocess
import tempfile
import time

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from clients import send
from encryption import certificates
from harness import Relay, Sink, dialogue, free_port, main, need, wait_until


class Mailboxes:
    """An LMTP server (aiosmtpd): `full` mailboxes are deferred, `gone` ones refused, at the end."""

    def __init__(self, full=(), gone=()):
        self.full, self.gone = set(full), set(gone)
        self.kept, self.contents = [], []
        self.port = free_port()

        class LmtpController(Controller):
            def factory(self):
                return LMTP(self.handler)

        self.controller = LmtpController(self, hostname="127.0.0.1", port=self.port)

    def __enter__(self):
        self.controller.start()
        return self

    def __exit__(self, *_):
        self.controller.stop()

    async def handle_DATA(self, server, session, envelope):
        replies = []
        for one in envelope.rcpt_tos:
            if one in self.full:
                replies.append("452 4.2.2 mailbox full")
            elif one in self.gone:
                replies.append("550 5.2.1 mailbox disabled")
            else:
                self.kept.append(one)
                self.contents.append(envelope.content)
                replies.append("250 2.1.5 kept")
        return "\r\n".join(replies)


class SmtpSink:
    """Postfix's smtp-sink, which stores what it receives: `messages()`."""

    def __init__(self, *flags):
        need("smtp-sink")
        self.folder = tempfile.TemporaryDirectory(prefix="ringpost-test-")
        pathlib.Path(self.folder.name).chmod(0o777)
        self.port = free_port()
        words = ["smtp-sink", *flags, "-u", "nobody", "-d", f"{self.folder.name}/%M."]
        self.words = [*words, f"127.0.0.1:{self.port}", "100"]

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL)
        wait_until("smtp-sink listens", self._listens)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.folder.cleanup()

    def _listens(self):
        try:
            return b"220" in dialogue(self.port, b"QUIT\r\n", wait=2)
        except OSError:
            return False

    def messages(self):
        return [path.read_bytes() for path in sorted(pathlib.Path(self.folder.name).iterdir())]

    def wait(self, count):
        def written():
            messages = self.messages()
            return messages if len(messages) >= count and all(messages) else None

        return wait_until(f"{count} messages", written)


def lmtp_answers_for_each_recipient():
    """RFC 2033 4.2: of one message, one recipient is accepted, one deferred until there is room, one refused."""
    full, gone = "full@sink.test", "gone@sink.test"
    with Mailboxes([full], [gone]) as boxes:
        with Relay("--smart-host", f"lmtp://127.0.0.1:{boxes.port}") as relay:
            send(relay.port, to=["a@sink.test", full, gone, "b@sink.test"])
            relay.wait_event("delivered", 2)
            deferred = relay.wait_event("deferred")[0]
            assert (deferred["to"], deferred["status"]) == (full, "4.2.2"), deferred
            bounced = relay.wait_event("bounced")[0]
            assert (bounced["to"], bounced["stage"]) == (gone, "end-of-data"), bounced
            assert "+lmtp" in deferred["site"], deferred
            boxes.full.clear()
            relay.wait_empty()
            # The report of the refused one is sent to its sender over the same route.
            wait_until("four are kept", lambda: len(boxes.kept) == 4)
            assert sorted(boxes.kept) == ["a@sender.test", "a@sink.test", "b@sink.test", full]
            # LMTP has the replies of SMTP (RFC 2033 4), and RFC 3464 2.3.6 no type of its own for it.
            report = boxes.contents[boxes.kept.index("a@sender.test")]
            assert b"\r\nDiagnostic-Code: smtp; 550 5.2.1 mailbox disabled\r\n" in report, report


def postfix_accepts_lmtp():
    with SmtpSink("-L") as sink:
        with Relay("--smart-host", f"lmtp://127.0.0.1:{sink.port}") as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                for _ in range(5):
                    to = [f"r{number}@sink.test" for number in range(20)]
                    client.sendmail("a@sender.test", to, b"Subject: x\r\n\r\n.dot\r\n")
            relay.wait_event("delivered", 100)
            relay.wait_empty()
            # smtp-sink keeps one copy for each recipient.
            assert all(b"LHLO" in message or b"X-Helo-Args" in message for message in sink.wait(5))


def smtp_is_not_spoken_to_an_lmtp_server():
    with Mailboxes() as boxes, Relay(smart_host=boxes.port) as relay:
        send(relay.port)
        event = relay.wait_event("deferred")[0]
        assert event["stage"] == "hello", event
        assert not boxes.kept


def limits_of_a_host_are_respected():
    """RFC 9422: RCPTMAX and MAILMAX of the reply to EHLO."""

    class Limited(Sink):
        async def handle_EHLO(self, server, session, envelope, hostname, responses):
            await super().handle_EHLO(server, session, envelope, hostname, responses)
            return [*responses[:-1], "250-LIMITS RCPTMAX=3 MAILMAX=2", responses[-1]]

    one = ["--set", "pool.connections_per_site=1"]
    with Limited() as sink, Relay(*one, cores="1", smart_host=sink.port) as relay:
        send(relay.port, to=[f"r{number}@sink.test" for number in range(10)])
        sink.wait(4)
        relay.wait_empty()
        assert [len(to) for _, to, _ in sink.messages] == [3, 3, 3, 1]
        assert sink.connections == 2, "two transactions on each"


def dsn_requests_are_passed_on_to_hosts_with_dsn():
    with SmtpSink() as sink, Relay(smart_host=sink.port) as relay:
        sent = dialogue(relay.port, b"EHLO client.test\r\n",
                        b"MAIL FROM:<a@sender.test> RET=HDRS ENVID=Q+2B1\r\n",
                        b"RCPT TO:<b@sink.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old@x.test\r\n",
                        b"DATA\r\n", b"Subject: x\r\n\r\nx\r\n.\r\n", b"QUIT\r\n")
        assert sent.count(b"\r\n250 ") >= 4, sent
        relay.wait_event("delivered")
        message = sink.wait(1)[0]
        assert b"RET=HDRS ENVID=Q+2B1" in message, message
        assert b"NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old@x.test" in message, message


def binary_content_is_sent_in_chunks_and_unchanged():
    """RFC 3030: relay to relay by BDAT, byte for byte; to a host without it, back to the sender."""
    content = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n" \
              b".\r\n..two\r\n\r.\n.\0\xff" + bytes(range(256)) * 3000 + b"\r\n.end"
    with Relay(smart_host=free_port()) as behind:
        with Relay("--smart-host", f"127.0.0.1:{behind.port}") as before:
            sent = dialogue(before.port, b"EHLO client.test\r\n",
                            b"MAIL FROM:<a@sender.test> BODY=BINARYMIME\r\n",
                            b"RCPT TO:<b@sink.test>\r\n", b"BDAT %d LAST\r\n" % len(content) + content)
            assert b" 2.0.0 " in sent, sent
            event = before.wait_event("delivered")[0]
            assert event["stage"] == "end-of-data", event
        behind.wait_event("received")
        assert behind.stop() == 0
        with tempfile.TemporaryDirectory() as folder:
            code, output, errors = behind.command("spool", "export", "--to", folder + "/out")
            assert code == 0, errors
            messages = [path.read_bytes() for path in pathlib.Path(folder, "out").iterdir()]
        assert any(message.endswith(content) for message in messages), len(messages)
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        dialogue(relay.port, b"EHLO client.test\r\n", b"MAIL FROM:<a@sender.test> BODY=BINARYMIME\r\n",
                 b"RCPT TO:<b@sink.test>\r\n", b"BDAT %d LAST\r\n" % len(content) + content)
        assert relay.wait_event("bounced")[0]["status"] == "5.6.3"


def reports(sink):
    """The reports at the sink: (to, text) of each."""
    return [(to, content.decode()) for source, to, content in sink.messages if not source]


def posted(relay, mail=b"", rcpt=b"", content=b"Subject: x\r\n\r\nthe body\r\n"):
    """Sends one message with these parameters of MAIL and RCPT."""
    sent = dialogue(relay.port, b"EHLO client.test\r\n", b"MAIL FROM:<a@sender.test>" + mail + b"\r\n",
                    b"RCPT TO:<b@sink.test>" + rcpt + b"\r\n", b"DATA\r\n", content + b".\r\n", b"QUIT\r\n")
    assert b"\r\n354 " in sent and sent.count(b"\r\n250 ") == 4, sent


def success_is_reported_unless_the_next_hop_does_it():
    """RFC 3461 5.2.2: "relayed" over SMTP without DSN, "delivered" over LMTP; else no report."""
    wish = b" NOTIFY=SUCCESS ORCPT=rfc822;old+2Bone@x.test"
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        posted(relay, b" RET=FULL ENVID=Q+2B1", wish)
        sink.wait(2)
        to, text = reports(sink)[0]
        assert to == ["a@sender.test"], to
        for line in ("Action: relayed", "Original-Envelope-Id: Q+1", "Final-Recipient: rfc822; b@sink.test",
                     "Original-Recipient: rfc822;old+one@x.test", "Status: 2.0.0", "Last-Attempt-Date: "):
            assert f"\r\n{line}" in text, (line, text)
        assert "the body" not in text, "RET is for failures"
        posted(relay, b"", b" NOTIFY=NEVER")
        posted(relay, b"", b" NOTIFY=FAILURE,DELAY")
        sink.wait(4)
        relay.wait_empty()
        assert len(reports(sink)) == 1
    with Mailboxes() as boxes:
        with Relay("--smart-host", f"lmtp://127.0.0.1:{boxes.port}") as relay:
            posted(relay, b"", wish)
            wait_until("message and report are kept", lambda: len(boxes.kept) == 2)
            assert boxes.kept == ["b@sink.test", "a@sender.test"]
            assert b"\r\nAction: delivered\r\n" in boxes.contents[1]


def failures_are_reported_as_requested():
    def reply(step, address):
        return "550 5.1.1 unknown" if step == "rcpt" and address == "b@sink.test" else None

    with Sink(reply) as sink, Relay(smart_host=sink.port) as relay:
        posted(relay, b"", b" NOTIFY=NEVER")
        posted(relay, b"", b" NOTIFY=SUCCESS,DELAY")
        relay.wait_event("bounced", 2)
        relay.wait_empty()
        assert not sink.messages
        posted(relay, b" RET=FULL ENVID=x", b" NOTIFY=FAILURE")
        posted(relay, b" RET=HDRS", b"")
        sink.wait(2)
        whole = [text for _, text in reports(sink) if "\r\n\r\nthe body\r\n" in text]
        assert len(whole) == 1 and "Content-Type: message/rfc822" in whole[0], sink.messages
        assert "Original-Envelope-Id: x" in whole[0] and "Action: failed" in whole[0]


def a_requested_delay_report_is_sent_once_also_after_a_restart():
    flags = ["--set", "retry.delay_report=3s", "--set", "retry.expire=1h"]

    def reply(step, address):
        return "450 4.2.1 busy" if step == "rcpt" and address == "b@sink.test" else None

    with Sink(reply) as sink, Relay(*flags, smart_host=sink.port) as relay:
        posted(relay, b"", b" NOTIFY=DELAY")
        posted(relay, b"", b"")
        relay.wait_event("deferred", 2)
        relay.restart()
        sink.wait(1)
        to, text = reports(sink)[0]
        for line in ("Action: delayed", "Status: 4.2.1", "Will-Retry-Until: ", "Diagnostic-Code: smtp; 450 4.2.1 busy"):
            assert f"\r\n{line}" in text, (line, text)
        relay.restart()
        time.sleep(4)
        assert len(reports(sink)) == 1, "once, and to one of the two"
        assert len(relay.queue()) == 2


def eight_bit_content_is_sent_only_where_it_is_allowed():
    text = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n\r\ng\u00fcn\r\n".encode()
    with SmtpSink("-8") as sink:
        with Relay(smart_host=sink.port) as relay:
            send(relay.port, text)
            event = relay.wait_event("bounced")[0]
            assert event["status"] == "5.6.3", event
        with Relay("--set", "route.eight_bit=send", smart_host=sink.port) as relay:
            send(relay.port, text)
            relay.wait_event("delivered")
    with SmtpSink() as sink, Relay(smart_host=sink.port) as relay:
        send(relay.port, text)
        relay.wait_event("delivered")
        message = sink.wait(1)[0]
        assert b"BODY=8BITMIME" in message and "g\u00fcn".encode() in message, message


def converted_eight_bit_content_reads_the_same():
    """RFC 6152 3: Python's parser reads the same content as was sent, and all of it is 7-bit."""
    message = email.message.EmailMessage()
    message["Subject"] = "x"
    message.set_content("gr\u00fcn\n.dot\nFrom here = there \n" * 200, cte="8bit")
    message.add_attachment("<p>\u00e4</p>\n" * 3000, subtype="html", cte="8bit")
    message.add_attachment(bytes(range(256)) * 500, maintype="image", subtype="x")
    inner = email.message.EmailMessage()
    inner.set_content("\u00df\n", cte="8bit")
    message.add_attachment(inner)
    policy = email.policy.SMTP
    text = message.as_bytes(policy=policy)
    assert not text.isascii()

    def leaves(raw):
        read = email.message_from_bytes(raw, policy=policy)
        return [(part.get_content_type(), part.get_payload(decode=True))
                for part in read.walk() if not part.is_multipart()]

    flags = ["--set", "route.eight_bit=convert"]
    for threshold in (["--set", "spool.stream_threshold=64KiB"], []):
        with SmtpSink("-8") as sink, Relay(*flags, *threshold, smart_host=sink.port) as relay:
            send(relay.port, text)
            relay.wait_event("delivered")
            dumped = sink.wait(1)[0]
            got = dumped[dumped.index(b"Subject: x"):]
            assert dumped.isascii() and b"BODY=" not in dumped
            assert b"quoted-printable" in got and b"base64" in got
            sent, arrived = leaves(text), leaves(got.replace(b"\n", b"\r\n"))
            assert len(sent) == len(arrived) == 4
            for one, other in zip(sent, arrived):
                assert one[0] == other[0] and one[1].rstrip() == other[1].rstrip(), (one, other)
            signed = text.replace(b"multipart/mixed", b"multipart/signed")
            send(relay.port, signed)
            event = relay.wait_event("bounced")[0]
            assert event["status"] == "5.6.3" and "a signed part" in event["text"], event


def hosts_that_ask_get_the_certificate_of_the_route():
    """`openssl s_server -Verify` prints the certificate that it gets; it has no SMTP, so only the handshake is tested."""
    with certificates("relay.test", "sink.test") as (made, root):
        certificate, key = made["relay.test"]
        ours = ["--set", f"route.tls_cert={certificate}", "--set", f"route.tls_key={key}"]
        for flags, seen in ((ours, b"CN = relay.test"), ([], b"peer did not return a certificate")):
            for version in ("-tls1_2", "-tls1_3"):
                port = free_port()
                words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-Verify", "2",
                         "-verify_return_error", "-CAfile", root, version, "-cert", made["sink.test"][0],
                         "-key", made["sink.test"][1], "-naccept", "1"]
                with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT) as server:
                    wait_until("s_server listens", lambda: b"ACCEPT" in server.stdout.readline())
                    with Relay("--smart-host", f"smtps://127.0.0.1:{port}", "--set",
                               "delivery.greeting_timeout=1s", *flags) as relay:
                        send(relay.port)
                        said = b""
                        while seen not in said:
                            line = server.stdout.readline()
                            assert line, (seen, said)
                            said += line
                    server.kill()


def unusable_certificates_are_reported_at_start():
    with certificates("relay.test") as (made, _):
        certificate = made["relay.test"][0]
        relay = Relay("--set", f"route.tls_cert={certificate}", "--set", "route.tls_key=/nowhere.key")
        code, _, errors = relay.command("check")
        assert code == 2 and "/nowhere.key" in errors, (code, errors)
        relay = Relay("--set", f"route.tls_cert={certificate}")
        code, _, errors = relay.command("check")
        assert code == 2 and "route.tls_cert: without a key" in errors, (code, errors)


TESTS = [
    lmtp_answers_for_each_recipient,
    postfix_accepts_lmtp,
    smtp_is_not_spoken_to_an_lmtp_server,
    limits_of_a_host_are_respected,
    eight_bit_content_is_sent_only_where_it_is_allowed,
    converted_eight_bit_content_reads_the_same,
    hosts_that_ask_get_the_certificate_of_the_route,
    unusable_certificates_are_reported_at_start,
    binary_content_is_sent_in_chunks_and_unchanged,
    dsn_requests_are_passed_on_to_hosts_with_dsn,
    success_is_reported_unless_the_next_hop_does_it,
    failures_are_reported_as_requested,
    a_requested_delay_report_is_sent_once_also_after_a_restart,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
