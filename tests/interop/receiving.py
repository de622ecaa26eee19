"""What senders ask for beside the message: extensions as clients speak them, down to the record."""

import pathlib
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
        code, _, errors = relay.command("spool", "export", str(relay.spool), "--to", folder)
        assert code == 0, errors
        return [path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*.eml"))]


def dsn_parameters_are_kept_with_the_message():
    with Relay(smart_host=free_port()) as relay:
        assert "dsn" in offered(relay)
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.sendmail(
                "a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n",
                mail_options=["RET=HDRS", "ENVID=QQ+2B314159"],
                rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;c+2Btag@d.test"],
            )
        relay.wait_event("deferred")
        letter, = letters_of(relay)
        head = letter.split(b"\r\n\r\n")[0].lower()
        for word in (b"qq+2b314159", b"rfc822;c+2btag@d.test", b"success", b"delay"):
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


TESTS = (dsn_parameters_are_kept_with_the_message, smtputf8_is_marked_only_where_it_is_needed)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
