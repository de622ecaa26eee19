"""What senders ask for beside the message: extensions as clients speak them, down to the record."""

import pathlib
import shutil
import smtplib
import tempfile

from harness import Relay, Sink, free_port, main, without_trace


def offered(relay):
    """What EHLO lists."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client.ehlo()
        return client.esmtp_features


def letters_of(relay):
    """The letters of a relay's spool, which is stopped for it."""
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
        letter, = letters_of(relay)
        head = letter.split(b"\r\n\r\n")[0].lower()
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
        # The next hop has no SMTPUTF8: what needs none arrives, what does ends with 5.6.7.
        (_, recipients, content), = sink.wait()
        assert recipients == ["b@sink.test"] and without_trace(content) == text
        assert b" with UTF8SMTP id " in content
        bounced, = relay.wait_event("bounced")
        assert bounced["to"] == "c@sink.test" and "5.6.7" in str(bounced), bounced


def bdat(client, chunk, last=False):
    """One chunk as a client that waits for each reply sends it."""
    client.putcmd(f"BDAT {len(chunk)}{' LAST' if last else ''}")
    client.sock.sendall(chunk)
    return client.getreply()


def chunks_bring_what_data_brings():
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
            # RSET between chunks leaves nothing, and a refused chunk is no command.
            client.mail("a@sender.test")
            client.rcpt("b@sink.test")
            assert bdat(client, b"half a message\r\n")[0] == 250
            client.rset()
            assert bdat(client, b"QUIT\r\n")[0] == 503
            assert client.noop()[0] == 250
        sink.wait(3)
        relay.wait_empty()
        assert [without_trace(content) for _, _, content in sink.messages] == [text] * 3


def binary_mail_is_kept_as_it_is():
    text = b"Subject: x\r\nMIME-Version: 1.0\r\n\r\n.\0\n.\r\r\n.\xff no end"
    with Relay(smart_host=free_port()) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.mail("a@sender.test", ["BODY=BINARYMIME"])
            client.rcpt("b@sink.test")
            assert client.docmd("DATA")[0] == 501
            assert bdat(client, text, last=True)[0] == 250
        relay.wait_event("deferred")
        letter, = letters_of(relay)
        assert letter.endswith(text), letter
        # Out of the spool and back into it, and the same comes out.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "letter.eml")
            path.write_bytes(letter)
            shutil.rmtree(relay.spool)
            code, _, errors = relay.command("spool", "import", str(path))
            assert code == 0, errors
            code, _, errors = relay.command("spool", "export", "--to", folder + "/out")
            assert code == 0, errors
            again, = [path.read_bytes() for path in pathlib.Path(folder, "out").glob("*.eml")]
            assert again == letter, again


TESTS = (
    dsn_parameters_are_kept_with_the_message, smtputf8_is_marked_only_where_it_is_needed,
    chunks_bring_what_data_brings, binary_mail_is_kept_as_it_is,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
