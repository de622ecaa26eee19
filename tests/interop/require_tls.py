"""REQUIRETLS and TLS-Required (RFC 8689) end to end: nodemailer and go-smtp as clients, smtp-server
and go-smtp as next hops."""

import contextlib
import os

from encryption import certificates, flags
from golang import go, message
from harness import Relay, dialogue, free_port, main, without_trace
from exim_opensmtpd import LARGE, SMALL, has_lines
from dns_routing import NameServers
from node import kept, secured
from peers import GoSmtp, SmtpServer, missing_for_go, missing_for_node, nodemailer, raw

WHOLE = {"id": "x", "return": "full", "notify": ["failure"], "recipient": "b@sink.test"}


def demanding(content, **options):
    return raw(content, requireTLSExtensionEnabled=True, **options)


def hop(pair, offers=True, host="127.0.0.1", **more):
    """A next hop that offers REQUIRETLS, or does not."""
    options = {"hideREQUIRETLS": not offers, "hideDSN": False, "authOptional": True}
    return SmtpServer({**options, **more.pop("options", {})}, pair=pair, host=host, **more)


def before(host, made, root, *words):
    """A relay that offers TLS, trusts the root of the hosts, and sends all mail to `host` (if any)."""
    name = "relay.test" if "relay.test" in made else "127.0.0.1"
    words = ["--set", f"tls.roots={root}", *words]
    return Relay(*flags(made[name]), *words, smart_host=host and host.port)


VERIFIED = ("--set", "route.tls=must-verify")


def requiretls_is_passed_on_to_a_host_that_offers_it():
    """RFC 8689 4.2.1; messages without REQUIRETLS are sent without it."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        with hop(made["127.0.0.1"]) as server:
            with before(server, made, root, *VERIFIED) as relay:
                messages = [demanding(SMALL), raw(SMALL, to=["c@sink.test"]), demanding(LARGE)]
                kept(nodemailer(secured(relay, root, pool=True, maxConnections=1), messages))
                server.wait(3)
                for one in server.messages:
                    assert one["require_tls"] == (one["to"][0]["address"] == "b@sink.test"), one
                assert all(one["secure"] for one in server.messages)
                contents = sorted(without_trace(one["content"]) for one in server.messages)
                assert contents == sorted([SMALL, SMALL, LARGE])
                relay.wait_empty()
    with certificates("127.0.0.1") as (made, root):
        with GoSmtp(pair=made["127.0.0.1"], require_tls=True) as server:
            with before(server, made, root, *VERIFIED) as relay:
                messages = [message(SMALL, require_tls=True), message(SMALL)]
                for one in go("go-smtp client", relay.port, messages, tls="starttls", root=root,
                              server_name="127.0.0.1"):
                    assert not one["Error"], one
                demanded = sorted((one["require_tls"], one["tls"]) for one in server.wait(2))
                assert demanded == [(False, True), (True, True)], demanded


def requiretls_works_over_lmtp():
    """RFC 8689 2: it is valid for LMTP."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        with hop(made["127.0.0.1"], options={"lmtp": True}) as server:
            words = ["--smart-host", f"lmtp://127.0.0.1:{server.port}", *VERIFIED]
            with before(None, made, root, *words) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                one, = server.wait()
                assert one["hello"] == "LHLO" and one["require_tls"], one


def requiretls_is_neither_offered_nor_accepted_without_tls():
    """RFC 8689 2: only in a session under TLS."""
    with certificates("relay.test") as (made, _), Relay(*flags(made["relay.test"])) as relay:
        told = dialogue(relay.port, b"EHLO client.test\r\n",
                        b"MAIL FROM:<a@sender.test> REQUIRETLS\r\n", b"QUIT\r\n")
        assert b"REQUIRETLS\r\n" not in told and b"\r\n530 5.7.10 " in told, told
        clear = {"host": "127.0.0.1", "port": relay.port, "ignoreTLS": True}
        refused, = nodemailer(clear, [demanding(SMALL)])
        assert refused["code"] == "EREQUIRETLS", refused


def a_host_that_does_not_offer_requiretls_gets_nothing():
    """5.7.30, and only the header of the message is returned, even with RET=FULL (RFC 8689 5)."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        with hop(made["127.0.0.1"], offers=False) as server:
            with before(server, made, root, *VERIFIED) as relay:
                messages = [demanding(SMALL, dsn=WHOLE), raw(SMALL, to=["c@sink.test"])]
                kept(nodemailer(secured(relay, root), messages))
                event = relay.wait_event("bounced")[0]
                assert (event["to"], event["status"]) == ("b@sink.test", "5.7.30"), event
                server.wait(2)
                relay.wait_empty()
                assert [one["to"][0]["address"] for one in server.came()] == ["c@sink.test"]
                # The report is not lost, although REQUIRETLS is not possible for it either.
                report, = server.reports()
                has_lines(report, "Status: 5.7.30", "Action: failed", "Original-Envelope-Id: x",
                          "Content-Type: text/rfc822-headers")
                assert "..dots" not in report, report


def reports_have_requiretls_if_the_message_had():
    """RFC 8689 5: for any kind of failure."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        refused = {"b@sink.test": [550, "unknown"]}
        with hop(made["127.0.0.1"], refused=refused) as server:
            with before(server, made, root, *VERIFIED) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL, dsn=WHOLE)]))
                report, = server.wait()
                assert not report["from"] and report["require_tls"], report
                assert report["to"][0]["address"] == "a@sender.test", report
                text = report["content"].decode()
                has_lines(text, "Action: failed", "Content-Type: text/rfc822-headers")
                assert "..dots" not in text, text
                # Without REQUIRETLS the whole message is returned, without REQUIRETLS.
                kept(nodemailer(secured(relay, root), [raw(SMALL, dsn=WHOLE)]))
                report = server.wait(2)[1]
                assert not report["from"] and not report["require_tls"], report
                assert "..dots" in report["content"].decode()


def requiretls_survives_a_restart():
    """The first attempt is deferred, and the relay restarted: REQUIRETLS is still there."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        port = free_port()
        words = ["--smart-host", f"127.0.0.1:{port}", *VERIFIED]
        with before(None, made, root, *words) as relay:
            with hop(made["127.0.0.1"], port=port, refused={"b@sink.test": [450, "later"]}):
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                relay.wait_event("deferred")
                assert relay.stop() == 0
            with hop(made["127.0.0.1"], port=port) as server:
                relay.start()
                one, = server.wait()
                assert one["require_tls"] and without_trace(one["content"]) == SMALL, one


OPTIONAL = SMALL.replace(b"Subject: x\r\n", b"Subject: x\r\nTLS-Required: No\r\n")


def tls_required_no_is_passed_on_unchanged():
    """RFC 8689 4.2.2: where TLS is not possible the message is sent without it; with REQUIRETLS the
    field is ignored (4.1)."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        # No version that both support: the handshake fails.
        old = {"minVersion": "TLSv1", "maxVersion": "TLSv1.1"}
        with hop(made["127.0.0.1"], options=old) as server:
            with before(server, made, root) as relay:
                kept(nodemailer(secured(relay, root), [raw(OPTIONAL)]))
                one, = server.wait()
                assert not one["secure"] and without_trace(one["content"]) == OPTIONAL, one
        with hop(made["127.0.0.1"]) as server:
            with before(server, made, root, *VERIFIED) as relay:
                kept(nodemailer(secured(relay, root), [demanding(OPTIONAL)]))
                one, = server.wait()
                assert one["require_tls"] and without_trace(one["content"]) == OPTIONAL, one


def requiretls_is_met_on_a_route_that_does_not_require_tls():
    """RFC 8689 4.2.1, steps 3 to 5: for such a message the certificate is verified with any policy of
    the route, and this host's is valid."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        for policy in ("may", "must"):
            words = ["--set", f"route.tls={policy}"]
            with hop(made["127.0.0.1"]) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    one, = server.wait(1, 5)
                    assert one["from"] and one["require_tls"], one["content"].decode()


def a_host_without_tls_is_5_7_10():
    """RFC 8689 4.2.1: where TLS is not possible a report MUST be sent at once, with 5.7.10 (SHOULD)."""
    with certificates("relay.test") as (made, root):
        for policy in ("may", "must", "must-verify"):
            words = ["--set", f"route.tls={policy}"]
            with hop(None, options={"hideSTARTTLS": True}) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    event = relay.wait_event("bounced", 1, 3)[0]
                    assert event["status"] == "5.7.10", event


def an_invalid_certificate_is_5_7_10():
    """The same for a certificate with another name."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root, *VERIFIED) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                event = relay.wait_event("bounced", 1, 3)[0]
                assert event["status"] == "5.7.10", event


def the_next_host_is_tried():
    """RFC 8689 4.2.1: the steps are repeated with each host. Their order is random, so three times."""
    for _ in range(3):
        with NameServers() as names, certificates("relay.test", "twin.names.test") as (made, root):
            port = free_port()
            with contextlib.ExitStack() as stack:
                pair = made["twin.names.test"]
                silent = stack.enter_context(hop(pair, False, host="127.0.0.2", port=port))
                second = stack.enter_context(hop(pair, True, host="127.0.0.3", port=port))
                words = ["--smart-host", f"twin.names.test:{port}"]
                words += ["--set", f"dns.servers={names.unbound}"]
                relay = stack.enter_context(before(None, made, root, *words))
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                one, = second.wait(1, 10)
                assert one["require_tls"] and without_trace(one["content"]) == SMALL, one
                assert not silent.came()


@contextlib.contextmanager
def mx_hosts(names, made, root, offers):
    """mx2 and mx3 of names.test, and a relay that asks these name servers."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        hops = [stack.enter_context(hop(made[name], offered, host=address, port=port))
                for (name, address), offered in zip(MX, offers)]
        words = ["--set", f"route.port={port}", "--set", f"dns.servers={names.unbound}"]
        relay = before(None, made, root, *VERIFIED, *words)
        yield *hops, stack.enter_context(relay)


BY_MX = "b@preferred.names.test"
MX = (("mx2.names.test", "127.0.0.2"), ("mx3.names.test", "127.0.0.3"))


def an_unsigned_mx_record_is_not_trusted():
    """RFC 8689 2 and 4.2.1 step 2: the name of an MX host must be authenticated, by DNSSEC or by
    MTA-STS; this zone has neither."""
    with NameServers() as names, certificates("relay.test", *dict(MX)) as (made, root):
        with mx_hosts(names, made, root, (True, True)) as (first, second, relay):
            kept(nodemailer(secured(relay, root), [demanding(SMALL, to=[BY_MX])]))
            assert relay.wait_event("bounced", 1, 5)[0]["status"].startswith("5.7."), relay.events()
            assert not first.came() and not second.came()


def a_report_has_no_requiretls_for_an_unverified_host():
    """RFC 8689 2: the option "MUST only be specified" where the certificate has been verified."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                report, = server.wait(1, 5)
                has_lines(report["content"].decode(), "Action: failed")
                assert not report["require_tls"], report["parameters"]


TESTS = [
    requiretls_is_passed_on_to_a_host_that_offers_it,
    requiretls_works_over_lmtp,
    requiretls_is_neither_offered_nor_accepted_without_tls,
    a_host_that_does_not_offer_requiretls_gets_nothing,
    reports_have_requiretls_if_the_message_had,
    requiretls_survives_a_restart,
    tls_required_no_is_passed_on_unchanged,
    requiretls_is_met_on_a_route_that_does_not_require_tls,
    a_host_without_tls_is_5_7_10,
    an_invalid_certificate_is_5_7_10,
    the_next_host_is_tried,
    an_unsigned_mx_record_is_not_trusted,
    a_report_has_no_requiretls_for_an_unverified_host,
]

if os.environ.get("RINGPOST_CI_NO_INSTALL") == "1" and (missing_for_node() or missing_for_go()):
    print(f"skipped {len(TESTS)} tests: {missing_for_node() or missing_for_go()}", flush=True)
    TESTS = []

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
