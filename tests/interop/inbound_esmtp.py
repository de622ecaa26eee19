"""Extensions that clients use when they send, from the session to the record in the spool."""

import pathlib
import shutil
import smtplib
import socket
import subprocess
import tempfile
import time

from harness import Relay, Sink, dialogue, free_port, main, need, wait_until, without_trace


def offered(relay):
    """The extensions in the reply to EHLO."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client.ehlo()
        return client.esmtp_features


def messages_of(relay):
    """The messages in a relay's spool; stops the relay."""
    assert relay.stop() == 0
    with tempfile.TemporaryDirectory() as folder:
        code, _, errors = relay.command("spool", "export", "--to", folder)
        assert code == 0, errors
        return [path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*.eml"))]


def dsn_parameters_are_kept_with_the_message():
    with Relay(smart_host=free_port()) as relay:
        assert "dsn" in offered(relay)
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.sendmail(
                "a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n",
                mail_options=["RET=HDRS", "ENVID=QQ314159"],
                rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;c.tag@d.test"],
            )
        relay.wait_event("deferred")
        message, = messages_of(relay)
        head = message.split(b"\r\n\r\n")[0].lower()
        for word in (b"qq314159", b"rfc822;c.tag@d.test", b"success", b"delay"):
            assert word in head, (word, head)


def smtputf8_is_marked_only_where_it_is_needed():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        assert "smtputf8" in offered(relay)
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.mail("a@sender.test", ["SMTPUTF8", "BODY=8BITMIME"])
            client.rcpt("b@sink.test")
            text = "Subject: plain\r\n\r\ngr\u00fc\u00dfe\r\n".encode()
            assert client.data(text)[0] == 250
            client.command_encoding = "utf-8"
            client.mail("\u00fc@sender.test", ["SMTPUTF8", "BODY=8BITMIME"])
            client.rcpt("c@sink.test")
            assert client.data("Subject: \u00fc\r\n\r\nx\r\n".encode())[0] == 250
        # The next hop has no SMTPUTF8: mail that needs it ends with 5.6.7, other mail arrives.
        (_, recipients, content), = sink.wait()
        assert recipients == ["b@sink.test"] and without_trace(content) == text
        assert b" with UTF8SMTP id " in content
        bounced, = relay.wait_event("bounced")
        assert bounced["to"] == "c@sink.test" and "5.6.7" in str(bounced), bounced


def bdat(client, chunk, last=False):
    """One chunk of a client that waits for each reply."""
    client.putcmd(f"BDAT {len(chunk)}{' LAST' if last else ''}")
    client.sock.sendall(chunk)
    return client.getreply()


def chunks_give_the_same_content_as_data():
    text = b"Subject: x\r\n\r\n.one\r\n..two\r\n.\r\n" + b"long line " * 6000 + b"\r\n" + b"short line\r\n" * 40_000 + b"\r\nend\r\n"
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        assert "chunking" in offered(relay)
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            for size in (1_000_000, 65_537, 30_011):
                client.mail("a@sender.test")
                client.rcpt("b@sink.test")
                for at in range(0, len(text), size):
                    last = at + size >= len(text)
                    code, said = bdat(client, text[at:at + size], last)
                    assert code == 250, said
            # RSET between chunks drops them, and a refused chunk is not read as a command.
            client.mail("a@sender.test")
            client.rcpt("b@sink.test")
            assert bdat(client, b"half a message\r\n")[0] == 250
            client.rset()
            assert bdat(client, b"QUIT\r\n")[0] == 503
            assert client.noop()[0] == 250
        sink.wait(3)
        relay.wait_empty()
        assert [without_trace(content) for _, _, content in sink.messages] == [text] * 3


def binary_mail_is_stored_unchanged():
    text = b"Subject: x\r\nMIME-Version: 1.0\r\n\r\n.\0\n.\r\r\n.\xff no end"
    with Relay(smart_host=free_port()) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.mail("a@sender.test", ["BODY=BINARYMIME"])
            client.rcpt("b@sink.test")
            assert client.docmd("DATA")[0] == 503
            assert bdat(client, text, last=True)[0] == 250
        relay.wait_event("deferred")
        message, = messages_of(relay)
        assert message.endswith(text), message
        # Exported from the spool and imported again, it is the same.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "message.eml")
            path.write_bytes(message)
            shutil.rmtree(relay.spool)
            code, _, errors = relay.command("spool", "import", str(path))
            assert code == 0, errors
            code, _, errors = relay.command("spool", "export", "--to", folder + "/out")
            assert code == 0, errors
            again, = [path.read_bytes() for path in pathlib.Path(folder, "out").glob("*.eml")]
            assert again == message, again


def options_pass_from_relay_to_relay():
    text = b"Subject: x\r\nMIME-Version: 1.0\r\n\r\n.\0\n.\r\r\n.\xff no end"
    with Relay(smart_host=free_port()) as behind, Relay(smart_host=behind.port) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.command_encoding = "utf-8"
            client.mail(
                "\u00fc@sender.test", ["BODY=BINARYMIME", "SMTPUTF8", "RET=HDRS", "ENVID=QQ314159"]
            )
            client.rcpt("\u00e4@sink.test", ["NOTIFY=FAILURE", "ORCPT=utf-8;\u00e4@d.test"])
            assert bdat(client, text, last=True)[0] == 250
        relay.wait_event("delivered")
        behind.wait_event("deferred")
        message, = messages_of(behind)
        assert message.endswith(text), message
        head = message.split(b"\r\n\r\n")[0].lower()
        for word in (b"binarymime", b"utf8", b"ret=hdrs", b"envid=qq314159", b"notify=failure"):
            assert word in head, (word, head)
        assert b"with utf8smtp id" in head, head


def etrn_tries_deferred_mail_at_once():
    port = free_port()
    with Relay(smart_host=port, retry_first="100s") as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")
        relay.wait_event("deferred")
        with Sink(port=port) as sink, smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            assert "etrn" in offered(relay)
            client.ehlo()
            assert client.docmd("ETRN", "elsewhere.test")[0] == 251
            time.sleep(0.5)
            assert not sink.messages
            assert client.docmd("ETRN", "@test")[0] == 250
            sink.wait()
        relay.wait_empty()


def clients_may_schedule_where_it_is_allowed():
    with Sink() as sink, tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "r.toml")
        port = free_port()
        config.write_text(f'[[listener]]\naddress = "127.0.0.1:{port}"\nscheduling = true\n')
        relay = Relay("--config", str(config), smart_host=sink.port)
        del relay.flags[:2]
        relay.port = port
        with relay:
            assert {"mt-priority", "futurerelease", "deliverby"} <= offered(relay).keys()
            began = time.time()
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                client.sendmail(
                    "a@sender.test", ["held@sink.test"], b"Subject: x\r\n\r\nbody\r\n",
                    mail_options=["HOLDFOR=2", "MT-PRIORITY=5"],
                )
                client.sendmail("a@sender.test", ["now@sink.test"], b"Subject: x\r\n\r\nbody\r\n")
            sink.wait(1)
            wait_until("only the held one is left", lambda: len(relay.queue()) == 1)
            entry, = relay.queue()
            assert entry["to"] == "held@sink.test" and entry["attempts"] == 0, entry
            # It is held over a restart too.
            relay.restart()
            sink.wait(2)
            assert time.time() - began >= 2
            assert [to for _, to, _ in sink.messages] == [["now@sink.test"], ["held@sink.test"]]
            assert b" priority 5; " in sink.messages[1][2]


def proxies_name_their_client():
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 4321 25\r\n"
    block = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 8, 127, 0, 0, 1, 0, 99, 0, 25])
    sent = (b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@sink.test>\r\n", b"QUIT\r\n")
    with Relay("--set", "access.proxy_networks=127.0.0.2/32") as relay:
        # The harness uses another address to check that it listens.
        def through(first):
            with socket.create_connection(
                ("127.0.0.1", relay.port), 5, source_address=("127.0.0.2", 0)
            ) as peer:
                peer.settimeout(5)
                peer.sendall(first)
                greeting = peer.recv(1000)
                for line in sent if greeting else ():
                    peer.sendall(line)
                    time.sleep(0.05)
                rest = b""
                while more := peer.recv(65536):
                    rest += more
                return greeting + rest

        assert b"550 5.7.1 Relaying denied for 192.0.2.7\r\n" in through(header)
        assert b"550 5.7.1 Relaying denied for 192.0.2.8\r\n" in through(block)
        assert b"250 2.1.5" in through(b"PROXY TCP4 127.0.0.1 127.0.0.1 4321 25\r\n")
        for _ in range(3):
            assert through(b"EHLO x\r\n") == b"", "no header, no session"
        # It is logged once a minute, with the address and the expected form; a bare connection is no
        # fault.
        socket.create_connection(("127.0.0.1", relay.port), 5, source_address=("127.0.0.2", 0)).close()
        wait_until("the log says why", lambda: b"a proxy sent no PROXY header" in relay.log)
        lines = [line for line in relay.log.splitlines() if b"PROXY" in line]
        assert len(lines) == 1 and b"address=127.0.0.2:" in lines[0], lines
        assert b"access.proxy_networks" in lines[0] and b'"PROXY TCP4 ..."' in lines[0], lines
        # Other clients may not send one.
        for first in (header, block):
            assert b"554 5.7.1 PROXY header not permitted" in dialogue(relay.port, first, early=True)
        assert dialogue(relay.port, header).endswith(b"from your address\r\n<closed>")
        wait_until("the log says so", lambda: b"a PROXY header came from" in relay.log)
        lines = [line for line in relay.log.splitlines() if b"a PROXY header came from" in line]
        assert len(lines) == 1 and b"127.0.0.1:" in lines[0], lines
        assert {event["client"] for event in relay.events("rejected")} == {"192.0.2.7:4321", "192.0.2.8:99"}


def xclient_names_the_client_where_it_is_allowed():
    need("swaks")
    def swaks(relay, *words):
        return subprocess.run(
            ["swaks", "-s", f"127.0.0.1:{relay.port}", "-f", "a@sender.test", "-t", "b@sink.test",
             "--quit-after", "RCPT", *words],
            capture_output=True, text=True, timeout=30, check=False,
        ).stdout

    with Relay("--set", "access.xclient_networks=127.0.0.1/32") as relay:
        assert "Relaying denied for 192.0.2.9" in swaks(relay, "--xclient-addr", "192.0.2.9")
        assert "250 2.1.5" in swaks(relay, "--xclient-addr", "127.0.0.5")
        assert "250 2.1.5" in swaks(relay)
    with Relay() as relay:
        assert "Relaying denied" not in swaks(relay, "--xclient-addr", "192.0.2.9")
        said = dialogue(relay.port, b"XCLIENT ADDR=192.0.2.9\r\n", b"QUIT\r\n")
        assert b"\r\n550 5.7.0 Insufficient authorization" in said, said
        wait_until("the log says so", lambda: b"XCLIENT came from" in relay.log)
        assert relay.events("rejected")[0]["status"] == "5.7.0"


TESTS = (
    dsn_parameters_are_kept_with_the_message, smtputf8_is_marked_only_where_it_is_needed,
    chunks_give_the_same_content_as_data, binary_mail_is_stored_unchanged,
    options_pass_from_relay_to_relay,
    etrn_tries_deferred_mail_at_once, clients_may_schedule_where_it_is_allowed,
    proxies_name_their_client, xclient_names_the_client_where_it_is_allowed,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
