"""nodemailer as client and smtp-server as next hop: the usual libraries of node programs for sending
mail, and for testing that."""

import base64
import os
import pathlib
import re

from encryption import certificates
from harness import Relay, Sink, free_port, main, without_trace
from exim_opensmtpd import LARGE, SMALL, below_traces, has_lines, listeners, relay_before
from peers import SmtpServer, missing_for_node, nodemailer, raw
from users import relay_with_users

# It declares SMTPUTF8, but not 8-bit content; the relay detects that itself.
INTERNATIONAL = "gr\u00fcn@sink.test"


def at(relay, **more):
    """nodemailer's options for the relay: in the clear, unless `more` changes that."""
    way = {"host": "127.0.0.1", "port": relay.port, "name": "client.test", "ignoreTLS": True}
    return {**way, **more}


def secured(relay, root, **more):
    """The same with TLS and a verified name."""
    tls = {"servername": "relay.test", "ca": [pathlib.Path(root).read_text()]}
    return at(relay, ignoreTLS=False, requireTLS=True, tls=tls, **more)


def kept(results):
    for one in results:
        assert one["ok"] and not one["rejected"], one
    return [base64.b64decode(one["content"]) for one in results]


COMPOSED = {
    "from": "Ann \u00c4 <a@sender.test>", "to": "b@sink.test", "subject": "gr\u00fc\u00dfe",
    "text": ".\n..two\n\ngr\u00fcn " + "long " * 400 + "\n.",
    "html": "<p>.\u00e4</p>\n" * 2000, "textEncoding": "quoted-printable",
    "attachments": [{"filename": "\u00fc.bin", "content": "\x01\x02." * 70_000},
                    {"raw": "Content-Type: text/plain; charset=utf-8\r\n"
                            "Content-Transfer-Encoding: 8bit\r\n\r\n.\r\n..gr\u00fcn\r\n.\r\n"}],
}


def nodemailer_sends_what_it_composes():
    """Its own MIME and dot-stuffing, 8-bit and large content, to several recipients."""
    to = [f"r{number}@sink.test" for number in range(150)]
    messages = [{"compose": COMPOSED, "options": {"envelope": {"from": "a@sender.test", "to": to}}},
                raw(SMALL), raw(LARGE), raw(LARGE * 3, to=["c@sink.test"])]
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        sent = kept(nodemailer(at(relay), messages))
        assert not sent[0].isascii(), "some of it has 8 bits"
        # Some line ends of its composer become CRLF only on the wire.
        sent[0] = re.sub(rb"\r?\n", b"\r\n", sent[0])
        relay.wait_empty()
        arrived = sorted((len(to), without_trace(content)) for _, to, content in sink.messages)
        # It sends 100 RCPT commands at once.
        many = [(50, sent[0]), (100, sent[0])]
        assert arrived == sorted([(1, content) for content in sent[1:]] + many)
        had = {one for _, some, _ in sink.messages for one in some}
        assert had == {"b@sink.test", "c@sink.test", *to}, had


def nodemailer_pools_its_connections():
    messages = [raw(b"Subject: %d\r\n\r\n.%d\r\n" % (number, number), to=[f"r{number}@sink.test"])
                for number in range(300)]
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        transport = at(relay, pool=True, maxConnections=10, maxMessages=20)
        sent = kept(nodemailer(transport, messages, at_once=True))
        sink.wait(300)
        relay.wait_empty()
        arrived = sorted(without_trace(content) for _, _, content in sink.messages)
        assert arrived == sorted(sent)


def nodemailer_logs_in_under_tls():
    """STARTTLS and TLS from the start, each with PLAIN and LOGIN; it gets the reasons of failures."""
    port = free_port()
    with Sink() as sink, relay_with_users(sink=sink, text=listeners(port)) as (relay, root):
        ways = [secured(relay, root), secured(relay, root, port=port, secure=True)]
        for way in ways:
            for method in ("PLAIN", "LOGIN"):
                auth = {"user": "joe", "pass": "pencil"}
                results = nodemailer({**way, "auth": auth, "authMethod": method}, [raw(SMALL)] * 2)
                assert kept(results) == [SMALL] * 2
        for way in ways:
            wrong, = nodemailer({**way, "auth": {"user": "joe", "pass": "pencel"}}, [raw(SMALL)])
            assert (wrong["code"], wrong["responseCode"]) == ("EAUTH", 535), wrong
            stranger, = nodemailer(way, [raw(SMALL)])
            assert (stranger["code"], stranger["responseCode"]) == ("EENVELOPE", 550), stranger
            assert " 5.7.1 " in stranger["response"], stranger
        sink.wait(8)
        assert all(without_trace(content) == SMALL for _, _, content in sink.messages)
        came = {(event["protocol"], event["user"]) for event in relay.wait_event("received", 8)}
        assert came == {("ESMTPSA", "joe")}, came


def nodemailer_gets_the_reason_for_a_message_that_is_too_large():
    small = ["--set", "session.message_bytes_max=100KiB"]
    with Sink() as sink, Relay(*small, smart_host=sink.port) as relay:
        declared = raw(LARGE)
        declared["options"]["envelope"]["size"] = len(LARGE)
        way = at(relay, pool=True, maxConnections=1)
        messages = [raw(LARGE), raw(SMALL), declared, raw(SMALL)]
        refused, first, kept_back, second = nodemailer(way, messages)
        assert first["ok"] and second["ok"], (first, second)
        assert refused["responseCode"] == 552 and " 5.3.4 " in refused["response"], refused
        # It reads the limit from the reply to EHLO.
        assert kept_back["error"] == "Message size larger than allowed 102400", kept_back
        assert [without_trace(content) for _, _, content in sink.wait(2)] == [SMALL] * 2


DSN = {"id": "Q+1 2", "return": "headers", "notify": ["success", "delay"],
       "recipient": "old@x.test"}


def everything_passes_from_nodemailer_to_smtp_server():
    """End to end: STARTTLS, SMTPUTF8, 8BITMIME, SIZE and DSN; byte for byte."""
    with certificates("127.0.0.1") as (made, root):
        server = SmtpServer({"hideDSN": False, "authOptional": True, "size": 50_000_000},
                            pair=made["127.0.0.1"])
        trust = ["--set", "route.tls=must-verify", "--set", f"tls.roots={root}"]
        with server, Relay(*trust, smart_host=server.port) as relay:
            messages = [raw(SMALL, dsn=DSN), raw(LARGE, to=[INTERNATIONAL])]
            assert kept(nodemailer(at(relay), messages)) == [SMALL, LARGE]
            server.wait(2)
            messages = {one["to"][0]["address"]: one for one in server.messages}
            assert sorted(messages) == ["b@sink.test", INTERNATIONAL], messages.keys()
            plain, international = messages["b@sink.test"], messages[INTERNATIONAL]
            for one, content in ((plain, SMALL), (international, LARGE)):
                assert without_trace(one["content"]) == content
                assert one["secure"] and one["tls"].startswith("TLS_"), one["tls"]
                assert one["body"] == "8bitmime", one["body"]
                assert int(one["parameters"]["SIZE"]) >= len(one["content"])
            assert international["utf8"] and not plain["utf8"]
            # Both of them write and read xtext (RFC 3461 4).
            assert plain["dsn"] == {"ret": "HDRS", "envid": "Q+1 2"}, plain["dsn"]
            expected = {"NOTIFY": "SUCCESS,DELAY", "ORCPT": "rfc822;old@x.test"}
            assert plain["to"][0]["parameters"] == expected, plain["to"]
            assert relay.wait_event("delivered", 2)[0]["tls"] == "TLSv1.3"
            relay.wait_empty()
            assert not server.reports(), "smtp-server says that it reports"


def the_relay_logs_in_at_smtp_server():
    """By PLAIN and by LOGIN, only under TLS; with a wrong password mail waits."""
    with certificates("127.0.0.1") as (made, root):
        for method in ("PLAIN", "LOGIN"):
            server = SmtpServer({"authMethods": [method]}, pair=made["127.0.0.1"],
                                login=["joe", "pencil"])
            with server, relay_before(server, root) as relay:
                kept(nodemailer(at(relay), [raw(SMALL), raw(LARGE)]))
                for one in server.wait(2):
                    assert (one["user"], one["mechanism"]) == ("joe", method), one
                assert [without_trace(one["content"]) for one in server.messages] == [SMALL, LARGE]
                assert "+auth-" in relay.wait_event("delivered")[0]["site"]
        server = SmtpServer({}, pair=made["127.0.0.1"], login=["joe", "eraser"])
        with server, relay_before(server, root) as relay:
            kept(nodemailer(at(relay), [raw(SMALL)]))
            event = relay.wait_event("deferred")[0]
            assert (event["stage"], event["code"]) == ("auth", 535), event
            assert not server.messages and not relay.events("bounced")


def smtp_server_gets_nothing_that_it_does_not_offer():
    """Without 8BITMIME, SMTPUTF8, DSN and enhanced codes, one after another."""
    with SmtpServer({"hide8BITMIME": True, "authOptional": True}) as server:
        with Relay(smart_host=server.port) as relay:
            kept(nodemailer(at(relay), [raw(SMALL)]))
            assert relay.wait_event("bounced")[0]["status"] == "5.6.3"
            server.wait()
            has_lines(server.reports()[0], "Status: 5.6.3", "Action: failed")
    with SmtpServer({"hideSMTPUTF8": True, "authOptional": True}) as server:
        with Relay(smart_host=server.port) as relay:
            kept(nodemailer(at(relay), [raw(SMALL, to=[INTERNATIONAL]), raw(SMALL)]))
            assert relay.wait_event("bounced")[0]["status"] == "5.6.7"
            server.wait(2)
            assert [below_traces(one["content"], 1) for one in server.came()] == [SMALL]
    with SmtpServer({"authOptional": True}) as server, Relay(smart_host=server.port) as relay:
        kept(nodemailer(at(relay), [raw(SMALL, dsn=DSN)]))
        message, report = server.wait(2)
        assert "ENVID" not in message["parameters"] and not message["to"][0]["parameters"], message
        has_lines(report["content"].decode(), "Action: relayed", "Original-Envelope-Id: Q+1 2",
                  "Original-Recipient: rfc822;old@x.test")


def refusals_of_smtp_server_reach_the_right_recipients():
    refused = {"busy@sink.test": [450, "busy"], "gone@sink.test": [550, "gone"]}
    for hidden in (True, False):
        options = {"hideENHANCEDSTATUSCODES": hidden, "authOptional": True, "size": 100_000}
        with SmtpServer(options, refused=refused) as server, Relay(smart_host=server.port) as relay:
            to = ["b@sink.test", "busy@sink.test", "gone@sink.test", "c@sink.test"]
            # smtp-server announces its limit, and a larger message is not sent (RFC 1870).
            kept(nodemailer(at(relay), [raw(SMALL, to=to), raw(LARGE)]))
            bounced = {event["to"]: event for event in relay.wait_event("bounced", 2)}
            assert bounced["gone@sink.test"]["code"] == 550, bounced
            assert bounced["gone@sink.test"]["stage"] == "rcpt", bounced
            large = bounced["b@sink.test"]
            assert (large["stage"], large["status"]) == ("mail", "5.3.4"), large
            assert relay.wait_event("deferred")[0]["to"] == "busy@sink.test"
            server.wait(3)
            message, = server.came()
            assert [one["address"] for one in message["to"]] == ["b@sink.test", "c@sink.test"]
            assert [one["to"] for one in relay.queue()] == ["busy@sink.test"]


def smtp_server_accepts_lmtp():
    """RFC 2033, here with STARTTLS: one reply for each recipient."""
    ends = {"full@sink.test": [452, "4.2.2 full"], "gone@sink.test": [550, "5.2.1 disabled"]}
    with certificates("127.0.0.1") as (made, root):
        options = {"lmtp": True, "authOptional": True}
        server = SmtpServer(options, pair=made["127.0.0.1"], at_the_end=ends)
        with server:
            words = ["--smart-host", f"lmtp://127.0.0.1:{server.port}", "--set",
                     f"tls.roots={root}", "--set", "route.tls=must-verify"]
            with Relay(*words) as relay:
                to = ["b@sink.test", "full@sink.test", "gone@sink.test", "c@sink.test"]
                kept(nodemailer(at(relay), [raw(LARGE, to=to)]))
                done = {event["to"] for event in relay.wait_event("delivered", 3)}
                assert done == {"a@sender.test", "b@sink.test", "c@sink.test"}, done
                deferred = relay.wait_event("deferred")[0]
                assert (deferred["to"], deferred["status"]) == ("full@sink.test", "4.2.2"), deferred
                bounced = relay.wait_event("bounced")[0]
                assert (bounced["to"], bounced["status"]) == ("gone@sink.test", "5.2.1"), bounced
            message = server.came()[0]
            assert message["hello"] == "LHLO" and message["secure"], message["hello"]
            assert without_trace(message["content"]) == LARGE


TESTS = [
    nodemailer_sends_what_it_composes,
    nodemailer_pools_its_connections,
    nodemailer_logs_in_under_tls,
    nodemailer_gets_the_reason_for_a_message_that_is_too_large,
    everything_passes_from_nodemailer_to_smtp_server,
    the_relay_logs_in_at_smtp_server,
    smtp_server_gets_nothing_that_it_does_not_offer,
    refusals_of_smtp_server_reach_the_right_recipients,
    smtp_server_accepts_lmtp,
]

if os.environ.get("RINGPOST_CI_NO_INSTALL") == "1" and missing_for_node():
    print(f"skipped {len(TESTS)} tests: {missing_for_node()}", flush=True)
    TESTS = []

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
