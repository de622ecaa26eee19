"""Real clients that send to the relay, and a real next hop."""

import json
import pathlib
import smtplib
import socket
import subprocess
import sysconfig
import tempfile
import time

from harness import Relay, Sink, dialogue, free_port, main, need, wait_until, without_trace


def send(port, text=b"Subject: hello\r\n\r\nbody\r\n", to=("b@sink.test",), source="a@sender.test"):
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        refused = client.sendmail(source, list(to), text)
        assert not refused, refused


def smtplib_sends_and_the_sink_gets_it_unchanged():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        text = b"Subject: dots\r\n\r\n.one\r\n..two\r\n.\r\nend\r\n"
        send(relay.port, text, to=("b@sink.test", "c@sink.test"))
        (source, recipients, content), = sink.wait()
        assert source == "a@sender.test"
        assert sorted(recipients) == ["b@sink.test", "c@sink.test"], "one transaction for both"
        assert without_trace(content) == text
        relay.wait_event("delivered", 2)
        event = relay.events("received")[0]
        assert event["from"] == "a@sender.test" and event["id"].encode() in content
        relay.wait_empty()


def swaks_pipelines():
    need("swaks")
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        for extra in (["--pipeline"], ["--protocol", "SMTP"], []):
            done = subprocess.run(
                ["swaks", "-s", f"127.0.0.1:{relay.port}", "-f", "a@sender.test", "-t",
                 "b@sink.test", "--helo", "client.test", *extra],
                capture_output=True, text=True, timeout=30, check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        sink.wait(3)


def a_client_that_disappears_leaves_nothing_behind():
    need("swaks")
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        for step in ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA"):
            subprocess.run(
                ["swaks", "-s", f"127.0.0.1:{relay.port}", "-f", "a@sender.test", "-t",
                 "b@sink.test", "--drop-after", step],
                capture_output=True, timeout=30, check=False,
            )
        time.sleep(0.3)
        assert not sink.messages and not relay.events("received")
        send(relay.port)
        sink.wait()


def msmtp_and_curl_send():
    need("msmtp", "curl")
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        text = "Subject: by msmtp\n\nbody\n"
        done = subprocess.run(
            ["msmtp", "--host=127.0.0.1", f"--port={relay.port}", "--from=a@sender.test",
             "b@sink.test"],
            input=text, capture_output=True, text=True, timeout=30, check=False,
        )
        assert done.returncode == 0, done.stderr
        with tempfile.NamedTemporaryFile("w", suffix=".eml") as file:
            file.write("Subject: by curl\r\n\r\nbody\r\n")
            file.flush()
            done = subprocess.run(
                ["curl", "-sS", f"smtp://127.0.0.1:{relay.port}/client.test", "--mail-from",
                 "a@sender.test", "--mail-rcpt", "b@sink.test", "-T", file.name],
                capture_output=True, text=True, timeout=30, check=False,
            )
            assert done.returncode == 0, done.stderr
        sink.wait(2)


def smtp_source_floods_and_all_arrive():
    need("smtp-source", "smtp-sink")
    with tempfile.TemporaryDirectory() as folder, Relay() as relay:
        sink_port = free_port()
        relay.stop()
        relay.flags += ["--smart-host", f"127.0.0.1:{sink_port}"]
        sink = subprocess.Popen(["smtp-sink", "-u", "nobody", f"127.0.0.1:{sink_port}", "500"], cwd=folder)
        try:
            relay.start()
            done = subprocess.run(
                ["smtp-source", "-s", "50", "-m", "5000", "-l", "2048", "-f", "a@sender.test",
                 "-t", "b@sink.test", f"127.0.0.1:{relay.port}"],
                capture_output=True, text=True, timeout=120, check=False,
            )
            assert done.returncode == 0, done.stderr
            assert len(relay.wait_event("delivered", 5000, 60)) == 5000
            assert len({event["id"] for event in relay.events("delivered")}) == 5000
            relay.wait_empty()
        finally:
            sink.kill()
            sink.wait()


def library_messages():
    """The test data of a MIME library, from its package in the Rust registry: downloaded, not built."""
    with tempfile.TemporaryDirectory() as folder:
        project = pathlib.Path(folder)
        (project / "lib.rs").touch()
        (project / "Cargo.toml").write_text(
            '[package]\nname = "corpus"\nversion = "0.0.0"\nedition = "2021"\n'
            '[lib]\npath = "lib.rs"\n[dependencies]\nmail-parser = "1"\n'
        )
        done = subprocess.run(
            ["cargo", "metadata", "--format-version", "1"], cwd=project, capture_output=True,
            text=True, timeout=120, check=False,
        )
        assert done.returncode == 0, done.stderr
    packages = json.loads(done.stdout)["packages"]
    manifest = next(one["manifest_path"] for one in packages if one["name"] == "mail-parser")
    return sorted((pathlib.Path(manifest).parent / "resources" / "eml").rglob("*.eml"))


def corpus():
    """Real messages: CPython's test data and a MIME library's."""
    own = pathlib.Path(sysconfig.get_path("stdlib")) / "test" / "test_email" / "data"
    return sorted(own.glob("*.txt")) + library_messages()


def real_messages_arrive_byte_for_byte():
    files = corpus()
    assert len(files) >= 200, f"only {len(files)} messages found"
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        sent = {}
        refused = {}
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            for number, path in enumerate(files):
                # SMTP has only CRLF; a lone CR or LF in a file is converted first, as any client
                # must do.
                text = path.read_bytes()
                text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
                if not text.endswith(b"\r\n"):
                    text += b"\r\n"
                try:
                    client.sendmail("a@sender.test", [f"m{number}@sink.test"], text)
                    sent[f"m{number}@sink.test"] = text
                except smtplib.SMTPResponseException as error:
                    refused[path.name] = (error.smtp_code, error.smtp_error)
        bad = {name: why for name, why in refused.items() if b"NUL" not in why[1]}
        assert not bad, bad
        sink.wait(len(sent), 60)
        for _, recipients, content in sink.messages:
            assert without_trace(content) == sent[recipients[0]], recipients[0]
        print(f"       {len(sent)} messages byte for byte, {len(refused)} refused (NUL)")


def unauthenticated_clients_may_not_relay():
    with Sink() as sink, Relay("--set", "access.relay_networks=10.0.0.0/8", smart_host=sink.port) as relay:
        try:
            send(relay.port)
            raise AssertionError("accepted from a stranger")
        except smtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients["b@sink.test"]
            assert code == 550 and text.startswith(b"5.7.1"), (code, text)
        assert relay.wait_event("rejected")[0]["to"] == "b@sink.test"


def wrong_protocols_get_a_reply_and_are_disconnected():
    with Relay() as relay:
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"EHLO x\nMAIL FROM:<a@b>\n",
            b"EHLO x\rNOOP\r",
            b"\x00\x00\x00\r\n\r\nQUIT\r\n",
        ):
            for early in (True, False):
                answer = dialogue(relay.port, sent, early=early)
                assert b"<closed>" in answer and any(
                    code in answer for code in (b"554", b"421", b"500", b"501", b"502")
                ), (sent, answer)


def smuggling_is_refused():
    for end in (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n"):
        with Sink() as sink, Relay(smart_host=sink.port) as relay:
            inner = b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<victim@sink.test>\r\nDATA\r\nx\r\n"
            answer = dialogue(
                relay.port,
                b"EHLO x\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\n",
                b"Subject: a\r\n\r\nfirst" + end + inner + b"\r\n.\r\nQUIT\r\n",
            )
            assert b"354" in answer and b"\r\n5" in answer, answer
            time.sleep(0.2)
            assert not sink.messages, (end, sink.messages)


HALF_A_MESSAGE = (
    b"EHLO x\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\nhalf"
)


def a_half_open_client_does_not_block_others():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        held = [socket.create_connection(("127.0.0.1", relay.port)) for _ in range(50)]
        for number, peer in enumerate(held):
            peer.sendall([b"", b"EHL", HALF_A_MESSAGE][number % 3])
        send(relay.port)
        sink.wait()
        for peer in held:
            peer.close()
        wait_until("nothing more arrives", lambda: len(sink.messages) == 1)


TESTS = [
    smtplib_sends_and_the_sink_gets_it_unchanged, swaks_pipelines, a_client_that_disappears_leaves_nothing_behind,
    msmtp_and_curl_send, smtp_source_floods_and_all_arrive, real_messages_arrive_byte_for_byte,
    unauthenticated_clients_may_not_relay, wrong_protocols_get_a_reply_and_are_disconnected, smuggling_is_refused,
    a_half_open_client_does_not_block_others,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
