"""Routing by DNS: mail goes to the hosts from real name servers, and the event log has the reasons.

nsd knows the zones in `dns`, unbound resolves through it. Sinks listen on 127.0.0.2, 127.0.0.3 and so
on, all on one port, which `route.port` names in place of 25; no program ever listens on 127.0.0.9.
"""

import contextlib
import email
import os
import pathlib
import signal
import smtplib
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

from clients import send
from harness import Relay, Sink, free_port, main, need, wait_until

SCRIPT = pathlib.Path(__file__).resolve().parent / "dns" / "servers.py"
# Its reports go to a separate host.
SENDER = "a@sender.names.test"
# An accept that waited for a name server would take at least one `dns.timeout`, which is 3 s.
ACCEPT_WITHIN_S = 1.0


class NameServers:
    """nsd and unbound. Both end with the test, or with this process."""

    def __init__(self, unbound_port=None):
        need("nsd", "unbound")
        self.arguments = [str(unbound_port)] if unbound_port else []

    def __enter__(self):
        self.script = subprocess.Popen(
            [sys.executable, str(SCRIPT), *self.arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        said = dict(word.split("=", 1) for word in self.script.stdout.readline().split())
        assert "unbound" in said, "the name servers did not start: run dns/servers.py by hand"
        self.nsd, self.unbound = said["nsd"], said["unbound"]
        self.folder = pathlib.Path(said["folder"])
        self.nsd_pid, self.unbound_pid = int(said["nsd_pid"]), int(said["unbound_pid"])
        return self

    def __exit__(self, *_):
        self.script.stdin.close()
        self.script.wait(20)
        self.script.stdout.close()

    @contextlib.contextmanager
    def silent(self):
        """unbound receives queries and does not answer."""
        os.kill(self.unbound_pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.unbound_pid, signal.SIGCONT)

    def write_zone(self, name, records):
        """Makes nsd read a new or changed zone."""
        serial = int(time.time() * 10) % 2**31
        head = f"$ORIGIN {name}.\n$TTL 1\n@ SOA ns hostmaster {serial} 3600 600 86400 1\n"
        (self.folder / f"{name}.zone").write_text(f"{head}  NS ns\nns A 127.0.0.1\n{records}")
        os.kill(self.nsd_pid, signal.SIGHUP)


def relay_by(servers, port, *flags, **more):
    """The relay that asks `servers` (ADDRESS:PORT, or several with commas)."""
    settings = [f"route.port={port}", f"dns.servers={servers}", "dns.failure_ttl=1s",
                "host_name=relay.names.test"]
    given = [word for setting in settings for word in ("--set", setting)]
    return Relay(*given, *flags, **more)


@contextlib.contextmanager
def hosts(*addresses, replies=None):
    """Sinks on these addresses and one port: (port, the sinks in order)."""
    port = free_port()
    replies = replies or {}
    with contextlib.ExitStack() as stack:
        sinks = [
            stack.enter_context(Sink(replies.get(address), port=port, host=address))
            for address in addresses
        ]
        yield port, sinks


class Greeter:
    """A host that greets with `line` and closes."""

    def __init__(self, host, port, line):
        self.connections = 0

        class Handler(socketserver.StreamRequestHandler):
            def handle(this):
                self.connections += 1
                this.wfile.write(line.encode() + b"\r\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server((host, port), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Blackhole:
    """A host that does not answer connections: its backlog is full and no program accepts."""

    def __init__(self, host, port):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(0)
        self.fillers = []

    def __enter__(self):
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self.listener.getsockname())
            self.fillers.append(filler)
        return self

    def __exit__(self, *_):
        for one in [*self.fillers, self.listener]:
            one.close()


class Mute:
    """A host that accepts connections and never sends a greeting."""

    def __init__(self, host, port):
        self.listener = socket.create_server((host, port), backlog=100)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def post(relay, *to, source=SENDER):
    send(relay.port, to=to, source=source)


def explained(event, status, *words, site=None, remote=None):
    """Asserts that an event has its reason: status, parts of the text, site, host."""
    assert event.get("status") == status, event
    for word in words:
        assert word in event.get("text", ""), (word, event)
    if site is not None:
        assert event.get("site", "") == site, (site, event)
    if remote is not None:
        assert remote in event.get("remote", ""), (remote, event)


def bounced(domain, status, *words):
    """Mail for `domain` is returned with `status` and `words`, in the log and in the report."""
    with NameServers() as names, hosts("127.0.0.8") as (port, (reports,)):
        with relay_by(names.unbound, port) as relay:
            post(relay, f"b@{domain}")
            event, = relay.wait_event("bounced")
            explained(event, status, *words)
            assert event["stage"] == "route" and "remote" not in event, event
            (source, to, content), = reports.wait()
            assert (source, to) == ("", [SENDER])
            text, machine, _ = email.message_from_bytes(content).get_payload()
            told = " ".join(text.get_payload(decode=True).decode().split())
            for word in words:
                assert word in told, (word, told)
            recipient = machine.get_payload()[1]
            assert recipient["Status"] == status and recipient["Action"] == "failed", recipient
            assert "Remote-MTA" not in recipient, "no host was tried"
            relay.wait_empty()
            assert not relay.events("deferred"), relay.events("deferred")


# --- Choice of the host


def the_next_mx_is_used_when_the_first_is_dead():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.3") as (port, (second, third)):
        with relay_by(names.unbound, port) as relay:
            for _ in range(5):
                post(relay, "b@first-dead.names.test")
            second.wait(5)
            site = f"mx:dead.names.test;mx2.names.test;mx3.names.test:{port}"
            for event in relay.wait_event("delivered", 5):
                explained(event, "2.0.0", site=site, remote=f"mx2.names.test [127.0.0.2]:{port}")
                assert event["attempt"] == 1, event
            assert not third.messages and not relay.events("deferred")


def a_silent_host_costs_one_timeout_not_one_per_connection():
    for silence in (Blackhole, Mute):
        with NameServers() as names, hosts("127.0.0.2") as (port, (second,)):
            with silence("127.0.0.9", port), relay_by(
                names.unbound, port, "--set", "delivery.connect_timeout=2s",
                "--set", "delivery.greeting_timeout=2s",
                "--set", "pool.messages_per_connection=1", cores="1",
            ) as relay:
                post(relay, "b@first-dead.names.test")
                second.wait(1)
                began = time.monotonic()
                for _ in range(5):
                    post(relay, "b@first-dead.names.test")
                second.wait(6, 30)
                took = time.monotonic() - began
                assert took < 2, f"five messages took {took:.1f} s: the dead host was asked each time"
                assert not relay.events("deferred")


def all_hosts_dead_is_deferred_and_names_one():
    with NameServers() as names, relay_by(names.unbound, free_port(), retry_first="60s") as relay:
        post(relay, "b@all-dead.names.test")
        event, = relay.wait_event("deferred")
        explained(event, "4.4.1", "refused", remote="dead.names.test [127.0.0.9]")
        entry, = relay.queue()
        assert "refused" in entry["reason"] and "dead.names.test" in entry["reason"], entry


def equal_hosts_share_the_mail():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.3") as (port, sinks):
        with relay_by(
            names.unbound, port, "--set", "pool.messages_per_connection=2",
        ) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                for number in range(200):
                    to = f"b{number}@equal.names.test"
                    assert not client.sendmail(SENDER, [to], b"Subject: x\r\n\r\nx\r\n")
            events = relay.wait_event("delivered", 200, 30)
            shares = [len(sink.messages) for sink in sinks]
            assert sum(shares) == 200 and min(shares) >= 40, shares
            assert {event["site"] for event in events} == {f"mx:mx2.names.test,mx3.names.test:{port}"}
            hosts_told = {event["remote"].split()[0] for event in events}
            assert hosts_told == {"mx2.names.test", "mx3.names.test"}, hosts_told


def preference_is_kept_while_the_best_host_lives():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.3") as (port, (best, other)):
        with relay_by(names.unbound, port, "--set", "pool.messages_per_connection=1") as relay:
            for _ in range(20):
                post(relay, "b@preferred.names.test")
            best.wait(20)
            assert not other.messages


def a_domain_without_mx_is_its_own_host():
    for domain, address in (("implicit", "127.0.0.2"), ("implicit6", "::1")):
        with NameServers() as names, hosts(address) as (port, (sink,)):
            with relay_by(names.unbound, port) as relay:
                post(relay, f"b@{domain}.names.test")
                sink.wait()
                event, = relay.wait_event("delivered")
                explained(event, "2.0.0", site=f"mx:{domain}.names.test:{port}",
                          remote=f"{domain}.names.test [{address}]:{port}")


def a_second_address_of_a_host_is_tried():
    with NameServers() as names, hosts("127.0.0.2") as (port, (sink,)):
        with relay_by(names.unbound, port, "--set", "pool.messages_per_connection=1") as relay:
            for _ in range(10):
                post(relay, "b@two-ways.names.test")
            sink.wait(10)
            assert not relay.events("deferred")
            assert all("127.0.0.2" in event["remote"] for event in relay.wait_event("delivered", 10))


def an_mx_without_address_is_skipped():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.8") as (port, (sink, _)):
        with relay_by(names.unbound, port) as relay:
            post(relay, "b@first-gone.names.test")
            sink.wait()
            explained(relay.wait_event("delivered")[0], "2.0.0",
                      site=f"mx:missing.names.test;mx2.names.test:{port}", remote="mx2.names.test")


def aliases_lead_to_the_site_of_their_target():
    # `far` is an alias outside its zone: unbound returns both parts, nsd only the first.
    with NameServers() as names, hosts("127.0.0.2") as (port, (sink,)):
        for servers in (names.unbound, names.nsd):
            with relay_by(servers, port) as relay:
                post(relay, "b@alias.names.test")
                post(relay, "b@far.names.test")
                told = {event["to"]: event["site"] for event in relay.wait_event("delivered", 2)}
                assert told == {
                    "b@alias.names.test": f"mx:mx2.names.test;mx3.names.test:{port}",
                    "b@far.names.test": f"mx:mx2.names.test:{port}",
                }, told
                sink.wait(2)
                # The address is not changed (RFC 5321 2.3.5: aliases stay).
                assert sink.messages[-1][1][0].split("@")[1] in ("alias.names.test", "far.names.test")
                sink.messages.clear()


def a_truncated_answer_is_repeated_over_tcp():
    with NameServers() as names, hosts("127.0.0.2") as (port, (sink,)):
        for servers in (names.unbound, names.nsd):
            with relay_by(servers, port) as relay:
                post(relay, "b@big.test")
                sink.wait()
                event, = relay.wait_event("delivered")
                assert event["site"].startswith("mx:a-rather-long-name-of-a-mail-exchanger-0."), event
                assert "exchanger-0.big.test [127.0.0.2]" in event["remote"], event
                sink.messages.clear()


def own_name_among_the_hosts():
    bounced("loop.names.test", "5.4.6", "loop.names.test", "loops back", "best MX")
    with NameServers() as names, hosts("127.0.0.2") as (port, (better,)):
        with relay_by(names.unbound, port) as relay:
            post(relay, "b@backup.names.test")
            better.wait()
            explained(relay.wait_event("delivered")[0], "2.0.0", site=f"mx:mx2.names.test:{port}")
    with NameServers() as names, hosts("127.0.0.3", "127.0.0.7") as (port, others):
        with relay_by(names.unbound, port, retry_first="60s") as relay:
            post(relay, "b@backup.names.test")
            event, = relay.wait_event("deferred")
            explained(event, "4.4.1", "refused", remote="mx2.names.test")
            assert not any(sink.messages for sink in others), "never to ourselves, nor past us"


def own_address_among_the_hosts():
    """With a name other than the relay's own, or `localhost`: common in mailing lists."""
    for listen in ("127.0.0.1", "0.0.0.0"):
        with NameServers() as names, tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            relay = relay_by(names.unbound, 0, "--config", file.name, retry_first="60s")
            file.write('[[route.rule]]\ndomain = "slip.test"\n'
                       f'next_hop = "self.names.test:{relay.port}"\n')
            file.flush()
            relay.flags[relay.flags.index("route.port=0")] = f"route.port={relay.port}"
            relay.flags[1] = f"{listen}:{relay.port}"
            with relay:
                for to in ("here.names.test", "local.names.test", "[127.0.0.1]"):
                    post(relay, f"b@{to}", source="")
                for event in relay.wait_event("dropped", 3):
                    explained(event, "5.4.6", "loops back", f"127.0.0.1]:{relay.port}", "this relay")
                post(relay, "b@slip.test")
                event, = relay.wait_event("deferred")
                explained(event, "4.4.6", "this relay", "configured")
                if listen == "127.0.0.1":
                    post(relay, "b@here-later.names.test")
                    event = relay.wait_event("deferred", 2)[1]
                    explained(event, "4.4.1", "refused", remote="mx2.names.test")
                assert len(relay.events("received")) == (5 if listen == "127.0.0.1" else 4), \
                    "nothing came back"


def literals_name_their_host():
    with NameServers() as names, hosts("127.0.0.2", "::1") as (port, (four, six)):
        with relay_by(names.unbound, port) as relay:
            post(relay, "b@[127.0.0.2]")
            four.wait()
            post(relay, "b@[IPv6:::1]")
            six.wait()
            sites = {event["site"] for event in relay.wait_event("delivered", 2)}
            assert sites == {f"[127.0.0.2]:{port}", f"[::1]:{port}"}, sites
            assert four.messages[0][1] == ["b@[127.0.0.2]"]


def a_rule_and_mx_work_together():
    other_port = free_port()
    with NameServers() as names, hosts("127.0.0.2") as (port, (by_mx,)):
        with Sink(port=other_port) as by_rule, tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(
                '[[route.rule]]\ndomain = ".inside.test"\n'
                f'next_hop = "127.0.0.1:{other_port}"\n'
                '[[route.rule]]\ndomain = "by-name.test"\nnext_hop = "missing.names.test"\n'
            )
            file.flush()
            with relay_by(names.unbound, port, "--config", file.name, retry_first="60s") as relay:
                post(relay, "b@a.inside.test", "c@preferred.names.test", "d@by-name.test")
                by_mx.wait()
                by_rule.wait()
                sites = {event["to"]: event["site"] for event in relay.wait_event("delivered", 2)}
                assert sites == {
                    "b@a.inside.test": f"[127.0.0.1]:{other_port}",
                    "c@preferred.names.test": f"mx:mx2.names.test;mx3.names.test:{port}",
                }, sites
                # The operator's mistake bounces no mail.
                event, = relay.wait_event("deferred")
                explained(event, "4.4.4", "missing.names.test", "NXDOMAIN")
                assert not relay.events("bounced")


# --- Choice of the site


def domains_with_the_same_hosts_share_site_and_connection():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.3") as (port, (best, _)):
        with relay_by(names.unbound, port, cores="1") as relay:
            for domain in ("preferred", "same-set", "alias"):
                post(relay, f"b@{domain}.names.test")
                best.wait(1)
                wait_until("delivered", lambda: not relay.queue())
            best.wait(3)
            assert best.connections == 1, best.connections
            site = f"mx:mx2.names.test;mx3.names.test:{port}"
            assert {event["site"] for event in relay.wait_event("delivered", 3)} == {site}
            entry, = relay.sites()
            assert entry["site"] == site and entry["connections"] == 1, entry
            post(relay, "b@equal.names.test")
            relay.wait_event("delivered", 4)
            assert len(relay.sites()) == 2, "equal hosts in another order of preference: another site"


# --- Names that do not resolve


def a_null_mx_bounces():
    bounced("null.names.test", "5.1.10", "null.names.test", "accepts no mail", "null MX")


def a_domain_that_does_not_exist_bounces():
    bounced("absent.names.test", "5.1.2", "absent.names.test", "does not exist", "NXDOMAIN")


def a_domain_without_mail_records_bounces():
    bounced("text.names.test", "5.1.2", "text.names.test", "neither MX nor address")


def an_mx_set_without_any_address_bounces():
    with NameServers() as names, hosts("127.0.0.8") as (port, (reports,)):
        with relay_by(names.unbound, port) as relay:
            post(relay, "b@only-gone.names.test")
            event, = relay.wait_event("bounced")
            explained(event, "5.4.4", "missing.names.test", "NXDOMAIN", "no host of")
            reports.wait()
            relay.wait_empty()


def servfail_is_deferred_until_it_is_over():
    with NameServers() as names, hosts("127.0.0.2") as (port, (sink,)):
        with relay_by(names.nsd, port) as relay:
            post(relay, "b@heal.test")
            event, = relay.wait_event("deferred")
            explained(event, "4.4.3", f"DNS server {names.nsd}", "SERVFAIL", "MX heal.test")
            entry, = relay.queue("--domain", "heal.test")
            assert "4.4.3" in entry["reason"] and "SERVFAIL" in entry["reason"], entry
            assert entry["attempts"] == 1 and entry["due"], entry
            names.write_zone("heal.test", "@ MX 10 mx\nmx A 127.0.0.2\n")
            sink.wait(1, 30)
            relay.wait_empty()
    with NameServers() as names, relay_by(names.unbound, free_port(), retry_first="60s") as relay:
        post(relay, "b@bogus.test")
        explained(relay.wait_event("deferred")[0], "4.4.3", "SERVFAIL", "DNS", "bogus.test")


def mail_follows_a_domain_that_moves():
    """Also mail that was ready for the old host when it disappeared."""
    with NameServers() as names, hosts("127.0.0.3") as (port, (new,)):
        names.write_zone("heal.test", "@ MX 10 old\nold A 127.0.0.9\nnew A 127.0.0.3\n")
        with relay_by(names.nsd, port, cores="1", retry_first="2s") as relay:
            for number in range(20):
                post(relay, f"b{number}@heal.test")
            relay.wait_event("deferred")
            names.write_zone("heal.test", "@ MX 10 new\nold A 127.0.0.9\nnew A 127.0.0.3\n")
            new.wait(20, 25)
            relay.wait_empty()


def accepts_quickly(relay, count=10):
    slowest = 0.0
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.ehlo()
        for number in range(count):
            client.mail(SENDER)
            code, text = client.rcpt(f"b@d{number}.preferred.names.test" if number else
                                     "b@preferred.names.test")
            assert code == 250, text
            began = time.monotonic()
            code, text = client.data(b"Subject: x\r\n\r\nx\r\n")
            slowest = max(slowest, time.monotonic() - began)
            assert code == 250, text
    assert slowest < ACCEPT_WITHIN_S, f"DATA to 250 took {slowest:.2f} s"


def a_silent_name_server_defers_mail_and_does_not_slow_reception():
    with NameServers() as names, hosts("127.0.0.2", "127.0.0.8") as (port, (sink, _)):
        with relay_by(names.unbound, port, "--set", "dns.attempts=1") as relay:
            with names.silent():
                accepts_quickly(relay)
                event = relay.wait_event("deferred", 1, 20)[0]
                explained(event, "4.4.3", "no DNS server answered in time", "MX")
                entry = relay.queue("--domain", "preferred.names.test")[0]
                assert "no DNS server answered" in entry["reason"], entry
            sink.wait(1, 30)
            relay.wait_empty(60)


def a_name_server_that_is_down_defers_until_it_is_up():
    dns_port = free_port()
    with hosts("127.0.0.2", "127.0.0.8") as (port, (sink, _)):
        with relay_by(f"127.0.0.1:{dns_port}", port) as relay:
            accepts_quickly(relay)
            event = relay.wait_event("deferred")[0]
            explained(event, "4.4.3", f"DNS server 127.0.0.1:{dns_port}", "refused", "UDP")
            with NameServers(dns_port):
                sink.wait(1, 30)
                relay.wait_empty(60)


def a_dead_first_name_server_costs_one_timeout():
    with NameServers() as names, hosts("127.0.0.2") as (port, (sink,)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            for dead, dns_timeout in ((f"127.0.0.1:{silent.getsockname()[1]}", 2.0),
                                      (f"127.0.0.1:{free_port()}", 0.0)):
                with relay_by(f"{dead},{names.unbound}", port, "--set", "dns.timeout=2s",
                              cores="1") as relay:
                    began = time.monotonic()
                    post(relay, "b@preferred.names.test")
                    sink.wait()
                    assert time.monotonic() - began < dns_timeout + 1.5, "once, not once a question"
                    assert not relay.events("deferred")
                    began = time.monotonic()
                    post(relay, "b@far.names.test")
                    sink.wait(2)
                    assert time.monotonic() - began < 1.5, "the dead one is asked last"
                    sink.messages.clear()


# --- Hosts that refuse


def a_greylisting_host_gets_the_second_try():
    seen = []

    def reply(step, address):
        if step == "rcpt":
            seen.append(address)
            return "451 4.7.1 greylisted, come again" if len(seen) == 1 else None
        return None

    # The next host of the site would accept it at once, but it is down.
    with NameServers() as names, hosts(
        "127.0.0.2", replies={"127.0.0.2": reply}
    ) as (port, (best,)), relay_by(names.unbound, port) as relay:
        post(relay, "b@preferred.names.test")
        event, = relay.wait_event("deferred")
        explained(event, "4.7.1", "greylisted", remote="mx2.names.test [127.0.0.2]",
                  site=f"mx:mx2.names.test;mx3.names.test:{port}")
        assert event["code"] == 451 and event["attempt"] == 1 and event["due"], event
        best.wait()
        event, = relay.wait_event("delivered")
        assert event["attempt"] == 2, event


def a_host_that_refuses_in_its_greeting_is_skipped_at_once():
    for line in ("421 4.3.2 too busy", "554 5.3.2 no mail here"):
        with NameServers() as names, hosts("127.0.0.3") as (port, (other,)):
            with Greeter("127.0.0.2", port, line) as first, relay_by(names.unbound, port) as relay:
                began = time.monotonic()
                post(relay, "b@preferred.names.test")
                other.wait()
                assert time.monotonic() - began < 2 and first.connections >= 1
                explained(relay.wait_event("delivered")[0], "2.0.0", remote="mx3.names.test [127.0.0.3]")
                assert not relay.events("deferred")


def when_every_host_refuses_in_its_greeting_the_text_is_reported():
    # 554 is deferred too: it is about the host, not about the recipient.
    for line in ("421 4.3.2 too busy", "554 5.3.2 no mail here"):
        port = free_port()
        greeters = Greeter("127.0.0.2", port, line), Greeter("127.0.0.3", port, line)
        with NameServers() as names, greeters[0], greeters[1]:
            with relay_by(names.unbound, port, retry_first="60s") as relay:
                post(relay, "b@preferred.names.test")
                event, = relay.wait_event("deferred")
                code, status, text = line.split(" ", 2)
                explained(event, status, text, remote=".names.test [127.0.0.")
                assert event["code"] == int(code) and event["stage"] == "greeting", event


TESTS = [
    the_next_mx_is_used_when_the_first_is_dead,
    a_silent_host_costs_one_timeout_not_one_per_connection,
    all_hosts_dead_is_deferred_and_names_one, equal_hosts_share_the_mail,
    preference_is_kept_while_the_best_host_lives, a_domain_without_mx_is_its_own_host,
    a_second_address_of_a_host_is_tried, an_mx_without_address_is_skipped,
    aliases_lead_to_the_site_of_their_target, a_truncated_answer_is_repeated_over_tcp,
    own_name_among_the_hosts, own_address_among_the_hosts, literals_name_their_host, a_rule_and_mx_work_together,
    domains_with_the_same_hosts_share_site_and_connection, a_null_mx_bounces,
    a_domain_that_does_not_exist_bounces, a_domain_without_mail_records_bounces,
    an_mx_set_without_any_address_bounces, servfail_is_deferred_until_it_is_over,
    mail_follows_a_domain_that_moves, a_silent_name_server_defers_mail_and_does_not_slow_reception,
    a_name_server_that_is_down_defers_until_it_is_up, a_dead_first_name_server_costs_one_timeout,
    a_greylisting_host_gets_the_second_try, a_host_that_refuses_in_its_greeting_is_skipped_at_once,
    when_every_host_refuses_in_its_greeting_the_text_is_reported,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
