"""Results of delivery when the next hop refuses, defers, or does not answer."""

import email
import smtplib
import subprocess
import tempfile
import time

from clients import send
from harness import Relay, Sink, free_port, main, need, wait_until


def refusing(step, code_and_text, *addresses):
    def reply(at, address):
        if at == step and (not addresses or address in addresses):
            return code_and_text
        return None

    return reply


def a_refused_recipient_is_reported_to_the_sender():
    with Sink(refusing("rcpt", "550 5.1.1 no such user", "gone@sink.test")) as sink:
        with Relay(smart_host=sink.port) as relay:
            send(relay.port, to=("b@sink.test", "gone@sink.test"))
            sink.wait(2)
            by_source = {source: (to, content) for source, to, content in sink.messages}
            assert by_source["a@sender.test"][0] == ["b@sink.test"]
            to, content = by_source[""]
            assert to == ["a@sender.test"]
            report = email.message_from_bytes(content)
            assert report.get_content_type() == "multipart/report"
            assert report.get_param("report-type") == "delivery-status"
            text, status, headers = report.get_payload()
            assert "gone@sink.test" in text.get_payload(decode=True).decode()
            per_recipient = status.get_payload()[1]
            assert per_recipient["Final-Recipient"].endswith("gone@sink.test")
            assert per_recipient["Action"] == "failed" and per_recipient["Status"] == "5.1.1"
            assert "550 5.1.1 no such user" in per_recipient["Diagnostic-Code"]
            assert "Subject: hello" in headers.get_payload()
            assert report["Auto-Submitted"]
            from flufl.bounce import scan_message

            assert b"gone@sink.test" in scan_message(report)
            relay.wait_event("bounced")
            relay.wait_empty()


def a_refused_report_ends_in_the_log():
    with Sink(refusing("rcpt", "550 5.1.1 no")) as sink, Relay(smart_host=sink.port) as relay:
        send(relay.port)
        relay.wait_event("bounced")
        dropped, = relay.wait_event("dropped")
        assert dropped["to"] == "a@sender.test"
        relay.wait_empty()
        assert not sink.messages


def mail_with_the_null_reverse_path_is_never_reported():
    with Sink(refusing("rcpt", "550 5.1.1 no")) as sink, Relay(smart_host=sink.port) as relay:
        send(relay.port, source="")
        relay.wait_event("dropped")
        relay.wait_empty()
        assert not relay.events("bounced") and len(relay.events("received")) == 1


def a_deferred_recipient_is_retried_with_growing_waits():
    tries = []

    def reply(at, address):
        if at == "rcpt":
            tries.append(time.monotonic())
            if len(tries) < 4:
                return "451 4.7.1 later"
        return None

    with Sink(reply) as sink, Relay("--set", "retry.jitter=0", smart_host=sink.port) as relay:
        send(relay.port)
        sink.wait(1, 30)
        gaps = [later - sooner for sooner, later in zip(tries, tries[1:])]
        assert 0.9 < gaps[0] < 1.6 and 1.9 < gaps[1] < 2.7 and 3.9 < gaps[2] < 4.9, gaps
        assert [event["attempt"] for event in relay.wait_event("deferred", 3)] == [1, 2, 3]
        assert relay.wait_event("delivered")[0]["attempt"] == 4


def mail_that_waits_too_long_expires_and_is_reported():
    with Sink(refusing("rcpt", "450 4.2.1 busy", "b@sink.test")) as sink:
        with Relay("--set", "retry.expire=3s", smart_host=sink.port) as relay:
            send(relay.port)
            source, to, content = sink.wait(1, 20)[0]
            assert (source, to) == ("", ["a@sender.test"])
            assert b"busy" in content
            relay.wait_event("expired")
            relay.wait_empty()


def kills_while_reports_are_made_neither_lose_one_nor_make_one_twice():
    count = 3000
    with Sink(refusing("rcpt", "451 4.2.0 later", "b@sink.test")) as sink:
        with Relay(smart_host=sink.port, retry_first="4s") as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                for number in range(count):
                    client.sendmail("a@sender.test", ["b@sink.test"], f"Subject: {number}\r\n\r\nx\r\n")
            sink.reply = refusing("rcpt", "550 5.1.1 No such user", "b@sink.test")
            for kill in range(20):
                had = len(sink.messages)
                wait_until("reports are made", lambda: len(sink.messages) > had + 20
                           or len(sink.messages) >= count, 30)
                time.sleep(kill % 7 / 50)
                relay.kill()
                relay.start()
            relay.wait_empty(120)
            # A report itself may come twice, as any mail that was delivered just before a kill.
            reports = {(content.rsplit(b"Subject: ", 1)[1].split()[0],
                        content.lower().split(b"message-id: ", 1)[1].split()[0])
                       for sender, _, content in sink.messages if sender == ""}
            numbers = [number for number, _ in reports]
            assert len(set(numbers)) == count, f"{count - len(set(numbers))} reports are lost"
            assert len(numbers) == count, f"{len(numbers) - count} reports were made twice"


def attempts_and_due_times_survive_a_restart():
    with Sink(refusing("rcpt", "450 4.2.1 busy")) as sink:
        with Relay(smart_host=sink.port, retry_first="100s") as relay:
            send(relay.port)
            relay.wait_event("deferred")
            before, = relay.queue()
            assert before["attempts"] == 1 and before["due"] and "busy" in before["reason"]
            relay.restart()
            after, = relay.queue()
            for key in ("id", "to", "attempts", "due", "reason", "received", "expires"):
                assert before[key] == after[key], (key, before[key], after[key])
            relay.kill()
            code, output, _ = relay.command("queue", "list")
            assert code == 0 and before["id"] in output, output
            relay.start()
            assert relay.queue()[0]["due"] == before["due"], "the same after a kill"


def fewer_shards_after_a_restart_leave_nothing_behind():
    with Sink(refusing("rcpt", "450 4.2.1 busy")) as sink:
        with Relay(smart_host=sink.port, retry_first="100s") as relay:
            for _ in range(40):
                send(relay.port)
            relay.wait_event("deferred", 40)
            before = {entry["id"] for entry in relay.queue()}
            assert len({entry["shard"] for entry in relay.queue()}) == 2, "both shards have some"
            assert relay.stop() == 0
            relay.flags[relay.flags.index("--cores") + 1] = "1"
            relay.start()
            assert {entry["id"] for entry in relay.queue()} == before
            relay.restart()
            assert {entry["id"] for entry in relay.queue()} == before


def a_dead_next_hop_backs_off_and_is_explained():
    port = free_port()
    with Relay(smart_host=port, retry_first="2s") as relay:
        for _ in range(5):
            send(relay.port)
        relay.wait_event("deferred")
        entries = relay.queue()
        assert len(entries) == 5
        told = [entry for entry in entries if "refused" in str(entry)]
        assert len(told) == 5, entries
        site = next(site for site in relay.sites() if site.get("backs_off_until"))
        assert "refused" in site["reason"]
        at = entries[0]["last_attempt"]
        assert entries[0]["received"][:19] <= at[:19] <= entries[0]["due"][:19], entries[0]
        code, output, _ = relay.command("queue", "show", entries[0]["id"])
        assert f"attempts  1, the last at {at[:19]}Z" in output, output
        assert code == 0 and "b@sink.test" in output, output
        code, _, errors = relay.command("queue", "show", "0000000000000")
        assert code != 0 and "not in the queue" in errors
        with Sink(port=port) as sink:
            sink.wait(5, 30)
        relay.wait_empty()


def misbehaving_servers_lose_nothing():
    """All faults of smtp-sink; each message is delivered, bounced or waits, and is never lost."""
    need("smtp-sink")
    cases = {
        "-f RCPT": "bounced", "-f DATA": "bounced", "-f MAIL": "bounced", "-r MAIL": "deferred",
        "-r RCPT": "deferred", "-r .": "deferred", "-q DATA": "deferred", "-q .": "deferred",
        "-Q RCPT": "deferred", "-Q .": "deferred", "-A 1": "bounced", "-f EHLO": "delivered",
        "-e": "delivered", "-p": "delivered", "-8": "delivered", "-E": "delivered",
        "-N": "delivered", "-f CONNECT": "deferred", "-r CONNECT": "deferred",
        "-q EHLO": "deferred", "-Q CONNECT": "deferred", "-W DATA:1": "delivered",
    }
    for flags, outcome in cases.items():
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            sink = subprocess.Popen(
                ["smtp-sink", "-u", "nobody", *flags.split(), f"127.0.0.1:{port}", "100"], cwd=folder
            )
            try:
                with Relay(smart_host=port, cores="1", retry_first="60s") as relay:
                    wait_until("sink listens", lambda: not refused(port))
                    send(relay.port)
                    event = relay.wait_event(outcome)[0]
                    if outcome == "deferred":
                        entry, = relay.queue()
                        assert entry["reason"], (flags, entry)
                    assert event["to"] == "b@sink.test", (flags, event)
            except AssertionError as error:
                raise AssertionError(f"smtp-sink {flags}: {error}") from error
            finally:
                sink.kill()
                sink.wait()


def refused(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return False
    except OSError:
        return True


def an_idle_connection_that_the_server_closed_costs_no_attempt():
    import socketserver
    import threading

    class Server(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 x\r\n")
            data = False
            for line in self.rfile:
                if data:
                    if line == b".\r\n":
                        self.wfile.write(b"250 2.0.0 ok\r\n")
                        return  # closes after one message, without a reply
                elif line.upper().startswith(b"DATA"):
                    data = True
                    self.wfile.write(b"354 go\r\n")
                else:
                    self.wfile.write(b"250 2.0.0 ok\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Relay(smart_host=server.server_address[1], cores="1") as relay:
            for count in range(1, 6):
                send(relay.port)
                relay.wait_event("delivered", count)
                time.sleep(0.1)
            assert not relay.events("deferred"), relay.events("deferred")
        server.shutdown()


def a_thousand_recipients_go_in_few_transactions():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
            to = [f"r{number}@sink.test" for number in range(1000)]
            assert not client.sendmail("a@sender.test", to, b"Subject: all\r\n\r\nx\r\n")
        relay.wait_event("delivered", 1000, 30)
        assert sorted(rcpt for _, rcpts, _ in sink.messages for rcpt in rcpts) == sorted(to)
        assert len(sink.messages) <= 12, len(sink.messages)
        relay.wait_empty()


def a_large_message_goes_through():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        line = b"x" * 76 + b"\r\n"
        text = b"Subject: large\r\n\r\n" + line * (20 * 1024 * 1024 // len(line))
        send(relay.port, text)
        (_, _, content), = sink.wait(1, 60)
        assert content.endswith(text[-1000:]) and len(content) > len(text)


def a_message_that_is_too_large_is_refused_declared_or_not():
    with Relay("--set", "session.message_bytes_max=100KiB") as relay:
        text = b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n"
        for declare in (True, False):
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                client.ehlo()
                size = f" SIZE={200 * 1024}" if declare else ""
                code, _ = client.docmd(f"MAIL FROM:<a@sender.test>{size}")
                if declare:
                    assert code == 552
                    continue
                client.docmd("RCPT TO:<b@sink.test>")
                code, answer = client.data(text + (b"z" * 70 + b"\r\n") * 2000)
                assert code == 552, (code, answer)
                assert client.noop()[0] == 250, "the session continues"


TESTS = [
    a_refused_recipient_is_reported_to_the_sender, a_refused_report_ends_in_the_log,
    mail_with_the_null_reverse_path_is_never_reported,
    a_deferred_recipient_is_retried_with_growing_waits,
    mail_that_waits_too_long_expires_and_is_reported, attempts_and_due_times_survive_a_restart,
    kills_while_reports_are_made_neither_lose_one_nor_make_one_twice,
    fewer_shards_after_a_restart_leave_nothing_behind,
    a_dead_next_hop_backs_off_and_is_explained, misbehaving_servers_lose_nothing,
    an_idle_connection_that_the_server_closed_costs_no_attempt,
    a_thousand_recipients_go_in_few_transactions, a_large_message_goes_through,
    a_message_that_is_too_large_is_refused_declared_or_not,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
