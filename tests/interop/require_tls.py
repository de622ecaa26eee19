"""REQUIRETLS and TLS-Required (RFC 8689) from end to end: nodemailer and go-smtp before the relay,
smtp-server and go-smtp behind it."""

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
    """A relay that offers TLS, knows the root of the hosts, and sends all to `host` (or nowhere)."""
    name = "relay.test" if "relay.test" in made else "127.0.0.1"
    words = ["--set", f"tls.roots={root}", *words]
    return Relay(*flags(made[name]), *words, smart_host=host and host.port)


VERIFIED = ("--set", "route.tls=must-verify")


def the_demand_goes_on_to_a_host_that_meets_it():
    """RFC 8689 4.2.1; and messages without it go beside, without it."""
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


def over_lmtp_too():
    """RFC 8689 2: it is valid for LMTP."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        with hop(made["127.0.0.1"], options={"lmtp": True}) as server:
            words = ["--smart-host", f"lmtp://127.0.0.1:{server.port}", *VERIFIED]
            with before(None, made, root, *words) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                one, = server.wait()
                assert one["hello"] == "LHLO" and one["require_tls"], one


def in_the_clear_it_is_not_offered_and_not_taken():
    """RFC 8689 2: only in a session under TLS."""
    with certificates("relay.test") as (made, _), Relay(*flags(made["relay.test"])) as relay:
        told = dialogue(relay.port, b"EHLO client.test\r\n",
                        b"MAIL FROM:<a@sender.test> REQUIRETLS\r\n", b"QUIT\r\n")
        assert b"REQUIRETLS\r\n" not in told and b"\r\n530 5.7.10 " in told, told
        clear = {"host": "127.0.0.1", "port": relay.port, "ignoreTLS": True}
        refused, = nodemailer(clear, [demanding(SMALL)])
        assert refused["code"] == "EREQUIRETLS", refused


def a_host_that_does_not_offer_it_gets_nothing():
    """5.7.30, and of the message its header alone goes back, even with RET=FULL (RFC 8689 5)."""
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
                # The report is not lost, though its way cannot be demanded either.
                report, = server.reports()
                has_lines(report, "Status: 5.7.30", "Action: failed", "Original-Envelope-Id: x",
                          "Content-Type: text/rfc822-headers")
                assert "..dots" not in report, report


def reports_demand_it_as_the_message_did():
    """RFC 8689 5: whatever the message failed with."""
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
                # Without the demand the message comes back whole, over a way that is not demanded.
                kept(nodemailer(secured(relay, root), [raw(SMALL, dsn=WHOLE)]))
                report = server.wait(2)[1]
                assert not report["from"] and not report["require_tls"], report
                assert "..dots" in report["content"].decode()


def demands_outlive_a_restart():
    """The first attempt is put off, and the relay restarted: the demand is still there."""
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


def tls_required_no_goes_on_as_it_is():
    """RFC 8689 4.2.2: where TLS cannot be had the message goes without; with REQUIRETLS the field
    counts for nothing (4.1)."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        # No version that both speak: the handshake fails.
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


def a_demand_is_met_where_the_route_does_not_demand_it():
    """RFC 8689 4.2.1, steps 3 to 5: for such a message the certificate is looked at whatever the
    route says, and this host's is good."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        for policy in ("may", "must"):
            words = ["--set", f"route.tls={policy}"]
            with hop(made["127.0.0.1"]) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    one, = server.wait(1, 5)
                    assert one["from"] and one["require_tls"], one["content"].decode()


def a_host_without_tls_is_5_7_10():
    """RFC 8689 4.2.1: where TLS cannot be had a report MUST be sent at once, with 5.7.10 (SHOULD)."""
    with certificates("relay.test") as (made, root):
        for policy in ("may", "must", "must-verify"):
            words = ["--set", f"route.tls={policy}"]
            with hop(None, options={"hideSTARTTLS": True}) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    event = relay.wait_event("bounced", 1, 3)[0]
                    assert event["status"] == "5.7.10", event


def a_certificate_that_is_not_good_is_5_7_10():
    """The same where the certificate has another name."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root, *VERIFIED) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                event = relay.wait_event("bounced", 1, 3)[0]
                assert event["status"] == "5.7.10", event


def the_next_host_is_asked():
    """RFC 8689 4.2.1: the steps are repeated with each host. Their order is drawn, so three times."""
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


def an_unsigned_mx_record_is_not_believed():
    """RFC 8689 2 and 4.2.1 step 2: the name of an MX host must be vouched for, by DNSSEC or by
    MTA-STS; this zone has neither."""
    with NameServers() as names, certificates("relay.test", *dict(MX)) as (made, root):
        with mx_hosts(names, made, root, (True, True)) as (first, second, relay):
            kept(nodemailer(secured(relay, root), [demanding(SMALL, to=[BY_MX])]))
            assert relay.wait_event("bounced", 1, 5)[0]["status"].startswith("5.7."), relay.events()
            assert not first.came() and not second.came()


def a_report_demands_nothing_of_a_host_that_proved_nothing():
    """RFC 8689 2: the option "MUST only be specified" where the certificate has been verified."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                report, = server.wait(1, 5)
                has_lines(report["content"].decode(), "Action: failed")
                assert not report["require_tls"], report["parameters"]


TESTS = [
    the_demand_goes_on_to_a_host_that_meets_it,
    over_lmtp_too,
    in_the_clear_it_is_not_offered_and_not_taken,
    a_host_that_does_not_offer_it_gets_nothing,
    reports_demand_it_as_the_message_did,
    demands_outlive_a_restart,
    tls_required_no_goes_on_as_it_is,
    a_demand_is_met_where_the_route_does_not_demand_it,
    a_host_without_tls_is_5_7_10,
    a_certificate_that_is_not_good_is_5_7_10,
    the_next_host_is_asked,
    an_unsigned_mx_record_is_not_believed,
    a_report_demands_nothing_of_a_host_that_proved_nothing,
]

if os.environ.get("RINGPOST_CI_NO_INSTALL") == "1" and (missing_for_node() or missing_for_go()):
    print(f"skipped {len(TESTS)} tests: {missing_for_node() or missing_for_go()}", flush=True)
    TESTS = []

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
