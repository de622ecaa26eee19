"""Go as client and as next hop: net/smtp of its standard library, and emersion's go-smtp.

It is version 0.12 of Debian 12, without DSN, CHUNKING and BINARYMIME.
"""

import contextlib
import os

from encryption import certificates
from harness import Relay, Sink, free_port, main, without_trace
from exim_opensmtpd import LARGE, SMALL, has_lines, listeners, post, relay_before
from peers import GoSmtp, encoded, golang, missing_for_go, run
from users import relay_with_users

INTERNATIONAL = "gr\u00fcn@sink.test"


def message(content, to=("b@sink.test",), sender="a@sender.test", **more):
    return {"from": sender, "to": list(to), "content": encoded(content), **more}


def go(library, port, messages, env=None, **more):
    """Sends messages with a Go library; returns the result of each."""
    job = {"library": library, "address": f"127.0.0.1:{port}", "messages": messages, **more}
    return run(golang("client"), job, **(env or {}))


def kept(results, count):
    assert len(results) == count and not any(one["Error"] for one in results), results
    return results


LOGIN = {"mechanism": "PLAIN", "user": "joe", "password": "pencil"}


def net_smtp_sends():
    """Its SendMail uses STARTTLS and 8BITMIME where they are offered, and PLAIN."""
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        many = [f"r{number}@sink.test" for number in range(100)]
        messages = [message(SMALL), message(LARGE, to=many)]
        kept(go("net/smtp", relay.port, messages), 2)
        sink.wait(2)
        arrived = sorted((without_trace(content), len(to)) for _, to, content in sink.messages)
        assert arrived == sorted([(SMALL, 1), (LARGE, 100)])
        came = relay.wait_event("received", 2)
        assert [event["protocol"] for event in came] == ["UTF8SMTP"] * 2, came
    with Sink() as sink, relay_with_users(sink=sink, host="127.0.0.1") as (relay, root):
        trust = {"SSL_CERT_FILE": root}
        kept(go("net/smtp", relay.port, [message(SMALL), message(LARGE)], env=trust, **LOGIN), 2)
        sink.wait(2)
        contents = sorted(without_trace(content) for _, _, content in sink.messages)
        assert contents == sorted([SMALL, LARGE])
        for event in relay.wait_event("received", 2):
            assert (event["user"], event["tls"]) == ("joe", "TLSv1.3"), event
        wrong = {**LOGIN, "password": "pencel"}
        wrong, = go("net/smtp", relay.port, [message(SMALL)], env=trust, **wrong)
        assert wrong["Error"].startswith("535 5.7.8 "), wrong
        stranger, = go("net/smtp", relay.port, [message(SMALL)], env=trust)
        assert stranger["Error"].startswith("550 5.7.1 "), stranger
        doubtful, = go("net/smtp", relay.port, [message(SMALL)], **LOGIN)
        assert "unknown authority" in doubtful["Error"], doubtful


def net_smtp_logs_in_without_tls_on_loopback():
    """PlainAuth of net/smtp sends a password in the clear only to this machine."""
    words = ["--set", "auth.without_tls=true"]
    text = '[[listener]]\naddress = "127.0.0.1:PORT"\ntls = "off"\n'
    with Sink() as sink, relay_with_users(*words, sink=sink, text=text) as (relay, _):
        kept(go("net/smtp", relay.port, [message(SMALL)], **LOGIN), 1)
        sink.wait()


def go_smtp_sends():
    """STARTTLS and TLS from the start, PLAIN and LOGIN, SIZE, SMTPUTF8 and REQUIRETLS."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(GoSmtp(utf8=True))
        relay, root = stack.enter_context(
            relay_with_users(sink=server, text=listeners(port), host="127.0.0.1"))
        count = 0
        for at, way in ((relay.port, "starttls"), (port, "implicit")):
            for mechanism in ("PLAIN", "LOGIN"):
                messages = [message(SMALL, size=len(SMALL)),
                           message(LARGE, to=[INTERNATIONAL], utf8=True)]
                login = {**LOGIN, "mechanism": mechanism}
                results = go("go-smtp client", at, messages, tls=way, root=root,
                             server_name="127.0.0.1", **login)
                for one in kept(results, 2):
                    offered = ["SIZE", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "AUTH"]
                    assert one["Extensions"] == offered, one
                count += 2
                server.wait(count)
        contents = [without_trace(one["content"]) for one in server.messages]
        assert sorted(contents) == sorted([SMALL, LARGE] * 4)
        assert sorted((one["to"][0], one["utf8"]) for one in server.messages) == \
            [("b@sink.test", False)] * 4 + [(INTERNATIONAL, True)] * 4
        assert {event["user"] for event in relay.wait_event("received", 8)} == {"joe"}
        kept(go("go-smtp", relay.port, [message(SMALL)], env={"SSL_CERT_FILE": root}, **LOGIN), 1)
        server.wait(9)


def go_smtp_gets_the_reasons_of_failures():
    small = ["--set", "session.message_bytes_max=100KiB"]
    with Sink() as sink, Relay(*small, smart_host=sink.port) as relay:
        messages = [message(LARGE, size=len(LARGE)), message(LARGE), message(SMALL, require_tls=True),
                   message(SMALL)]
        declared, sent, demanding, taken = go("go-smtp client", relay.port, messages)
        for one in (declared, sent):
            assert (one["Code"], one["Enhanced"]) == (552, [5, 3, 4]), one
        assert demanding["Error"] == "smtp: server does not support REQUIRETLS", demanding
        assert not taken["Error"], taken
        assert without_trace(sink.wait()[0][2]) == SMALL


def go_smtp_behind_the_relay_gets_everything():
    """STARTTLS and TLS from the start, AUTH, SIZE, SMTPUTF8 and 8BITMIME; it has no DSN."""
    with certificates("127.0.0.1") as (made, root):
        for implicit in (False, True):
            server = GoSmtp(pair=made["127.0.0.1"], implicit=implicit, login=["joe", "pencil"],
                            utf8=True, size=50_000_000)
            with server, relay_before(server, root, scheme="smtps://" * implicit) as relay:
                wish = "BODY=8BITMIME RET=HDRS ENVID=Q+2B1"
                post(relay.port, SMALL, wish, "NOTIFY=SUCCESS ORCPT=rfc822;old@x.test")
                server.wait(2)
                post(relay.port, LARGE, "SMTPUTF8 BODY=8BITMIME", to=INTERNATIONAL)
                server.wait(3)
                small, large = server.came()
                assert without_trace(small["content"]) == SMALL
                assert without_trace(large["content"]) == LARGE
                assert (small["utf8"], large["utf8"]) == (False, True)
                assert large["to"] == [INTERNATIONAL]
                for one in (small, large):
                    assert (one["user"], one["tls"]) == ("joe", True), one
                    assert one["size"] >= len(one["content"])
                has_lines(server.reports()[0], "Action: relayed", "Original-Envelope-Id: Q+1",
                          "Original-Recipient: rfc822;old@x.test")
                for event in relay.wait_event("delivered", 3):
                    assert event["tls"] == "TLSv1.3" and "+auth-" in event["site"], event
                relay.wait_empty()


def refusals_of_go_smtp_reach_the_right_recipients():
    """Also 552 for too many recipients, which is temporary (RFC 5321 4.5.3.1.10)."""
    refused = {"busy@sink.test": {"code": 450, "enhanced": [4, 2, 1], "text": "busy"},
               "gone@sink.test": {"code": 550, "enhanced": [5, 1, 1], "text": "gone"}}
    with GoSmtp(refused=refused, size=100_000, recipients_max=3) as server:
        with Relay(smart_host=server.port) as relay:
            to = ["b@sink.test", *refused, "c@sink.test"]
            kept(go("go-smtp", relay.port, [message(SMALL, to=to)]), 1)
            kept(go("go-smtp", relay.port, [message(LARGE)]), 1)
            bounced = {event["to"]: event for event in relay.wait_event("bounced", 2)}
            gone, large = bounced["gone@sink.test"], bounced["b@sink.test"]
            assert (gone["code"], gone["status"], gone["stage"]) == (550, "5.1.1", "rcpt"), gone
            assert (large["status"], large["stage"]) == ("5.3.4", "mail"), large
            deferred = relay.wait_event("deferred")[0]
            assert (deferred["to"], deferred["status"]) == ("busy@sink.test", "4.2.1"), deferred
            server.wait(3)
            assert server.came()[0]["to"] == ["b@sink.test", "c@sink.test"], server.came()
        with Relay(smart_host=server.port) as relay:
            to = [f"r{number}@sink.test" for number in range(10)]
            kept(go("go-smtp", relay.port, [message(SMALL, to=to)]), 1)
            server.wait(7)
            assert not relay.events("bounced") and not relay.events("deferred"), relay.events()
            taken = [one["to"] for one in server.came()[1:]]
            assert sorted(one for some in taken for one in some) == sorted(to), taken
            assert sorted(len(some) for some in taken) == [1, 3, 3, 3], taken
            relay.wait_empty()


def many_messages_of_go_arrive_at_go():
    """Both sides reuse their connections; each message arrives once."""
    contents = [b"Subject: %d\r\n\r\n.%d\r\n" % (number, number) for number in range(1000)]
    with GoSmtp() as server, Relay(smart_host=server.port) as relay:
        kept(go("go-smtp client", relay.port, [message(one) for one in contents]), 1000)
        server.wait(1000, 60)
        relay.wait_empty()
        assert sorted(without_trace(one["content"]) for one in server.messages) == sorted(contents)


def go_smtp_accepts_lmtp():
    """RFC 2033, with STARTTLS: one reply for each recipient."""
    ends = {"full@sink.test": {"code": 452, "enhanced": [4, 2, 2], "text": "full"},
            "gone@sink.test": {"code": 550, "enhanced": [5, 2, 1], "text": "disabled"}}
    with certificates("127.0.0.1") as (made, root):
        with GoSmtp(lmtp=True, pair=made["127.0.0.1"], at_the_end=ends) as server:
            words = ["--smart-host", f"lmtp://127.0.0.1:{server.port}", "--set",
                     f"tls.roots={root}", "--set", "route.tls=must-verify"]
            with Relay(*words) as relay:
                post(relay.port, LARGE, "BODY=8BITMIME", to="c@sink.test")
                kept(go("go-smtp", relay.port, [message(SMALL, to=["b@sink.test", *ends])]), 1)
                done = {event["to"] for event in relay.wait_event("delivered", 3)}
                assert done == {"a@sender.test", "b@sink.test", "c@sink.test"}, done
                deferred = relay.wait_event("deferred")[0]
                assert (deferred["to"], deferred["status"]) == ("full@sink.test", "4.2.2"), deferred
                bounced = relay.wait_event("bounced")[0]
                assert (bounced["to"], bounced["status"]) == ("gone@sink.test", "5.2.1"), bounced
            arrived = {one["to"][0]: without_trace(one["content"]) for one in server.came()}
            assert arrived["b@sink.test"] == SMALL and arrived["c@sink.test"] == LARGE
            assert all(one["tls"] for one in server.messages)


TESTS = [
    net_smtp_sends,
    net_smtp_logs_in_without_tls_on_loopback,
    go_smtp_sends,
    go_smtp_gets_the_reasons_of_failures,
    go_smtp_behind_the_relay_gets_everything,
    refusals_of_go_smtp_reach_the_right_recipients,
    many_messages_of_go_arrive_at_go,
    go_smtp_accepts_lmtp,
]

if os.environ.get("RINGPOST_CI_NO_INSTALL") == "1" and missing_for_go():
    print(f"skipped {len(TESTS)} tests: {missing_for_go()}", flush=True)
    TESTS = []

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
