"""What RFC 8689 asks for and the relay does not do yet: each of these fails. They are not in
`run.py`; one that passes belongs in `require_tls.py`."""

import contextlib

from encryption import certificates
from harness import free_port, main, without_trace
from mtas import SMALL, has_lines
from names import NameServers
from node import kept, secured
from peers import nodemailer, raw
from require_tls import OPTIONAL, VERIFIED, before, demanding, hop


def a_demand_is_met_where_the_route_does_not_demand_it():
    """RFC 8689 4.2.1, steps 3 to 5: for such a letter the certificate is looked at whatever the
    route says, and this host's is good. It is bounced: 5.7.30."""
    with certificates("relay.test", "127.0.0.1") as (made, root):
        for policy in ("may", "must"):
            words = ["--set", f"route.tls={policy}"]
            with hop(made["127.0.0.1"]) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    one, = server.wait(1, 5)
                    assert one["from"] and one["require_tls"], one["content"].decode()


def a_host_without_tls_is_5_7_10():
    """RFC 8689 4.2.1: where TLS cannot be had a report MUST be sent at once, with 5.7.10 (SHOULD).
    With "may" it is 5.7.30; with "must" and "must-verify" the letter waits for days (4.7.4)."""
    with certificates("relay.test") as (made, root):
        for policy in ("may", "must", "must-verify"):
            words = ["--set", f"route.tls={policy}"]
            with hop(None, options={"hideSTARTTLS": True}) as server:
                with before(server, made, root, *words) as relay:
                    kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                    event = relay.wait_event("bounced", 1, 3)[0]
                    assert event["status"] == "5.7.10", event


def a_certificate_that_is_not_good_is_5_7_10():
    """The same where the certificate has another name; the letter waits for days (4.7.5)."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root, *VERIFIED) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                event = relay.wait_event("bounced", 1, 3)[0]
                assert event["status"] == "5.7.10", event


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


def the_next_mx_host_is_asked():
    """RFC 8689 4.2.1: "repeat steps 2-5 with each host on the recipient domain's list of MX hosts".
    The first, which does not offer it, is the last."""
    with NameServers() as names, certificates("relay.test", *dict(MX)) as (made, root):
        with mx_hosts(names, made, root, (False, True)) as (_, second, relay):
            kept(nodemailer(secured(relay, root), [demanding(SMALL, to=[BY_MX])]))
            one, = second.wait(1, 5)
            assert one["require_tls"] and without_trace(one["content"]) == SMALL, one


def an_mx_record_that_nobody_signed_is_not_believed():
    """RFC 8689 2 and 4.2.1 step 2: the name of an MX host must be vouched for, by DNSSEC or by
    MTA-STS; this zone has neither. It is sent, as if its demand was met."""
    with NameServers() as names, certificates("relay.test", *dict(MX)) as (made, root):
        with mx_hosts(names, made, root, (True, True)) as (first, second, relay):
            kept(nodemailer(secured(relay, root), [demanding(SMALL, to=[BY_MX])]))
            assert relay.wait_event("bounced", 1, 5)[0]["status"].startswith("5.7."), relay.events()
            assert not first.came() and not second.came()


def tls_required_no_goes_where_tls_fails():
    """RFC 8689 4.2.2: "do not fail if this is unsuccessful". Where the route demands TLS the letter
    waits (4.7.5, 4.7.4)."""
    with certificates("relay.test", "other.test") as (made, root):
        for pair, options in ((made["other.test"], {}), (None, {"hideSTARTTLS": True})):
            with hop(pair, options=options) as server:
                with before(server, made, root, *VERIFIED) as relay:
                    kept(nodemailer(secured(relay, root), [raw(OPTIONAL)]))
                    one, = server.wait(1, 5)
                    assert without_trace(one["content"]) == OPTIONAL


def a_report_demands_nothing_of_a_host_that_proved_nothing():
    """RFC 8689 2: the option "MUST only be specified" where the certificate has been verified. A
    report says it to any host that offers it."""
    with certificates("relay.test", "other.test") as (made, root):
        with hop(made["other.test"]) as server:
            with before(server, made, root) as relay:
                kept(nodemailer(secured(relay, root), [demanding(SMALL)]))
                report, = server.wait(1, 5)
                has_lines(report["content"].decode(), "Action: failed")
                assert not report["require_tls"], report["parameters"]


TESTS = [
    a_demand_is_met_where_the_route_does_not_demand_it,
    a_host_without_tls_is_5_7_10,
    a_certificate_that_is_not_good_is_5_7_10,
    the_next_mx_host_is_asked,
    an_mx_record_that_nobody_signed_is_not_believed,
    tls_required_no_goes_where_tls_fails,
    a_report_demands_nothing_of_a_host_that_proved_nothing,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
