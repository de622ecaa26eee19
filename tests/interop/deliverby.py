"""DELIVERBY (RFC 2852): what is returned, what is reported, and what is passed on."""

import contextlib
import pathlib
import re
import smtplib
import socketserver
import tempfile
import threading
import time

from harness import Relay, Sink, free_port, main, wait_until

MESSAGE = b"Subject: x\r\n\r\nthe body\r\n"


class TimedSink:
    """A next hop that offers DELIVERBY and DSN. It refuses RCPT as `refusal` decides."""

    def __init__(self, shortest, refusal=lambda address: None, port=None):
        self.shortest = shortest
        self.refusal = refusal
        self.port = port or free_port()
        # (parameters of MAIL, parameters of each RCPT, content)
        self.messages = []

    def __enter__(self):
        sink = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self):
                sink.serve(self.rfile, lambda line: self.wfile.write(line.encode() + b"\r\n"))

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", self.port), Session)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, lines, say):
        mail, recipients = None, []
        say("220 timed.test ESMTP")
        for line in lines:
            line = line.decode().strip()
            verb = line[:4].upper()
            if verb == "EHLO":
                for text in ("250-timed.test", f"250-DELIVERBY {self.shortest}", "250 DSN"):
                    say(text)
            elif verb == "MAIL":
                mail, recipients = line, []
                say("250 ok")
            elif verb == "RCPT":
                refusal = self.refusal(line)
                if not refusal:
                    recipients.append(line)
                say(refusal or "250 ok")
            elif verb == "DATA" and recipients:
                say("354 go on")
                content = b""
                while (part := lines.readline()) != b".\r\n":
                    content += part
                self.messages.append((mail, recipients, content))
                say("250 ok")
            elif verb == "QUIT":
                return say("221 bye")
            else:
                say("554 no valid recipients" if verb == "DATA" else "250 ok")

    def wait(self, test, seconds=20.0):
        """The message for which `test` is true."""
        wait_until("the message", lambda: any(map(test, self.messages)), seconds)
        found, = filter(test, self.messages)
        return found


def is_report(message):
    return message[0].startswith("MAIL FROM:<>")


def is_mail(message):
    return not is_report(message)


def text_of(report):
    """Unfolded and decoded text."""
    return re.sub(r"\s+", " ", report[-1].decode())


@contextlib.contextmanager
def timed_relay(smart_host, *flags):
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "r.toml")
        port = free_port()
        config.write_text(f'[[listener]]\naddress = "127.0.0.1:{port}"\nscheduling = true\n')
        relay = Relay("--config", str(config), *flags, smart_host=smart_host)
        del relay.flags[:2]
        relay.port = port
        with relay:
            yield relay


def post(relay, by, *wishes, to="b@sink.test"):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client.sendmail("a@sender.test", [to], MESSAGE, mail_options=[f"BY={by}"], rcpt_options=wishes)


def the_remaining_time_is_passed_on_and_every_hop_is_reported():
    with TimedSink(60) as sink, timed_relay(sink.port) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            assert client.esmtp_features["deliverby"] == "1"
            code, told = client.docmd("MAIL", "FROM:<a@sender.test> BY=0;R")
            assert code == 501 and told.startswith(b"5.5.4 BY with mode R"), told
        post(relay, "300;RT")
        mail, _, _ = sink.wait(is_mail)
        seconds = int(re.fullmatch(r"MAIL FROM:<a@sender.test> BY=(\d+);RT", mail)[1])
        assert 280 <= seconds <= 300, mail
        report = text_of(sink.wait(is_report))
        for words in ("Action: relayed", "Deliver-By-Date: ", "You set a time for it"):
            assert words in report, report
        relay.wait_empty()
        # Mode N, its time over, and NOTIFY=NEVER.
        sink.messages.clear()
        post(relay, "-30;NT", "NOTIFY=NEVER")
        mail, recipients, _ = sink.wait(is_mail)
        assert re.fullmatch(r"MAIL FROM:<a@sender.test> BY=-3\d;NT", mail), mail
        assert recipients == ["RCPT TO:<b@sink.test> NOTIFY=NEVER"], recipients
        relay.wait_empty()
        # Less time than the host requires.
        sink.messages.clear()
        post(relay, "30;R")
        event, = relay.wait_event("bounced")
        assert event["status"] == "5.4.7" and "promises nothing below 60" in event["text"], event
        report = text_of(sink.wait(is_report))
        assert "Action: failed Status: 5.4.7" in report, report
        assert not any(map(is_mail, sink.messages))


def a_host_without_deliverby_gets_nothing_with_r_and_everything_with_n():
    with Sink() as sink, timed_relay(sink.port) as relay:
        post(relay, "300;R")
        event, = relay.wait_event("bounced")
        assert event["status"] == "5.4.7" and "does not offer DELIVERBY" in event["text"], event
        assert "Action: failed" in text_of(sink.wait(1)[0])
        post(relay, "300;N")
        post(relay, "300;N", "NOTIFY=NEVER")
        sink.wait(4)
        relay.wait_empty()
        assert len(sink.messages) == 4, sink.messages
        told = [text_of(message) for message in sink.messages if not message[0]]
        assert len(told) == 2 and "Action: relayed" in told[1] + told[0], told


def mail_that_is_not_delivered_in_time_is_returned_or_reported_once():
    def refusal(line):
        return "450 4.2.1 busy" if "@sink.test" in line else None

    flags = ("--set", "retry.expire=1h", "--set", "retry.first=2s")
    with TimedSink(0, refusal) as sink, timed_relay(sink.port, *flags) as relay:
        # No attempt falls into the last second, in which the mail is bounced and not expired: they come
        # at the restart, 2 s and 6 s after it.
        began = time.time()
        post(relay, "11;R", to="r@sink.test")
        post(relay, "11;N", to="n@sink.test")
        post(relay, "11;N", "NOTIFY=FAILURE", to="silent@sink.test")
        entries = {entry["to"]: entry for entry in relay.queue()}
        assert entries["r@sink.test"]["deliver_by"] == entries["r@sink.test"]["expires"] + " R", entries
        assert entries["n@sink.test"]["deliver_by"].endswith("Z N"), entries
        code, shown, _ = relay.command("queue", "show", entries["n@sink.test"]["id"])
        assert code == 0 and f"by        {entries['n@sink.test']['deliver_by']}" in shown, shown
        relay.restart()
        expired, = relay.wait_event("expired", 1, 30)
        assert time.time() - began >= 11 and expired["to"] == "r@sink.test", expired
        wait_until("both reports", lambda: sum(map(is_report, sink.messages)) == 2)
        reports = [text_of(message) for message in sink.messages if is_report(message)]
        failed, delayed = sorted(reports, key=lambda text: "Action: delayed" in text)
        assert "r@sink.test" in failed and "Action: failed Status: 5.4.7" in failed, failed
        assert "X-Ringpost; not delivered by " in failed and "450 4.2.1 busy" in failed, failed
        assert "n@sink.test" in delayed and "Action: delayed Status: 4.4.7" in delayed, delayed
        relay.restart()
        time.sleep(3)
        assert sum(map(is_report, sink.messages)) == 2, "once"
        assert {entry["to"] for entry in relay.queue()} == {"n@sink.test", "silent@sink.test"}
        # It is kept from spool to spool.
        assert relay.stop() == 0
        with tempfile.TemporaryDirectory() as folder:
            code, _, errors = relay.command("spool", "export", "--to", folder)
            assert code == 0, errors
            messages = [path.read_bytes() for path in pathlib.Path(folder).glob("*.eml")]
            assert len(messages) == 2 and all(b" deliver-by=20" in message for message in messages), messages


TESTS = (
    the_remaining_time_is_passed_on_and_every_hop_is_reported,
    a_host_without_deliverby_gets_nothing_with_r_and_everything_with_n,
    mail_that_is_not_delivered_in_time_is_returned_or_reported_once,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
