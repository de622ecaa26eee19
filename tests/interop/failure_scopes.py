"""What is charged to what, with the real relay: next hops that follow a script and fail at one stage.

The tables are in `src/delivery/scope.rs` (stage x reply or loss x scope, next step) and
`src/pool/fallback.rs` (what did not work at a host, what is done instead). The pure tests take every
cell; these take every cell of a host that has another host beside it, and what only the whole relay
shows: connections, other senders, reasons.
"""

import contextlib
import smtplib
import socket
import ssl
import threading
import time

from dns_routing import NameServers, relay_by
from encryption import certificates
from harness import Relay, free_port, main, wait_until

CLOSE, SILENT = "close", "silent"
OFFERS = ("PIPELINING", "8BITMIME", "SIZE 100000000", "ENHANCEDSTATUSCODES")
SENDER = "a@sender.names.test"


class Hop:
    """A next hop with a script: {stage: what it does there}, or a function of the command's argument
    that gives that or None. A string is a reply; `CLOSE` hangs up, `SILENT` says nothing any more."""

    def __init__(self, script=None, host="127.0.0.1", port=None, offers=OFFERS, lmtp=False, tls=None,
                 after_starttls=b"", after_handshake=None):
        self.script = script or {}
        self.host, self.port = host, port or free_port()
        self.offers, self.lmtp, self.tls = offers, lmtp, tls
        self.after_starttls, self.after_handshake = after_starttls, after_handshake
        self.connections, self.handshakes, self.messages, self.commands = 0, 0, [], []
        self.lock = threading.Lock()

    def __enter__(self):
        self.server = socket.create_server((self.host, self.port), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def _accept(self):
        while True:
            try:
                peer, _ = self.server.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with contextlib.suppress(OSError, ssl.SSLError, EOFError):
            peer.settimeout(60)
            self._talk(peer)
        with contextlib.suppress(OSError):
            peer.close()

    def _does(self, stage, argument):
        act = self.script.get(stage)
        return act(argument) if callable(act) else act

    def _answer(self, peer, stage, usual, argument=""):
        """True when the conversation goes on as usual."""
        act = self._does(stage, argument)
        if act == CLOSE:
            raise EOFError
        if act == SILENT:
            time.sleep(60)
            raise EOFError
        if isinstance(act, bytes):
            for byte in act:
                peer.sendall(bytes([byte]))
                time.sleep(0.05)
            return False
        peer.sendall(((act or usual) + "\r\n").encode())
        return act is None or act.startswith(("2", "3"))

    def _talk(self, peer):
        if not self._answer(peer, "greeting", "220 hop ESMTP"):
            return
        source = peer.makefile("rb")
        envelope, begun, secured = [], False, False
        while True:
            line = source.readline()
            if not line:
                return
            command = line.decode().strip()
            verb = command.split(":")[0].split()[0].upper() if command else ""
            with self.lock:
                self.commands.append(command)
            if verb in ("EHLO", "LHLO"):
                if secured and self.after_handshake == CLOSE:
                    raise EOFError
                offers = [*self.offers, *(["STARTTLS"] if self.tls and not secured else [])]
                lines = ["hop", *offers]
                text = "\r\n".join(
                    f"250{'-' if at < len(lines) - 1 else ' '}{line}" for at, line in enumerate(lines)
                )
                self._answer(peer, "ehlo", text)
            elif verb == "HELO":
                self._answer(peer, "helo", "250 hop")
            elif verb == "STARTTLS":
                act = self._does("starttls", "")
                if act == SILENT:
                    time.sleep(60)
                    return
                if act:
                    peer.sendall(act.encode() + b"\r\n")
                    if act.startswith("421"):
                        return
                    continue
                peer.sendall(b"220 go\r\n" + self.after_starttls)
                with self.lock:
                    self.handshakes += 1
                peer = self.tls.wrap_socket(peer, server_side=True)
                source, secured = peer.makefile("rb"), True
                if self.after_handshake == "refuse-resumed" and peer.session_reused:
                    raise EOFError
            elif verb == "RSET":
                self._answer(peer, "rset", "250 flushed")
                envelope = []
            elif verb == "MAIL FROM" or verb == "MAIL":
                envelope = []
                begun = self._answer(peer, "mail", "250 sender ok", command)
            elif verb == "RCPT TO" or verb == "RCPT":
                if not begun:
                    peer.sendall(b"503 5.5.1 no sender\r\n")
                elif self._answer(peer, "rcpt", "250 recipient ok", command):
                    envelope.append(command.split("<")[1].split(">")[0])
            elif verb == "DATA":
                if not envelope:
                    peer.sendall(b"503 5.5.1 no recipients\r\n")
                    continue
                if not self._answer(peer, "data", "354 go ahead"):
                    continue
                if self._does("content", "") == CLOSE:
                    source.readline()
                    raise EOFError
                content = []
                while (line := source.readline()) != b".\r\n":
                    if not line:
                        return
                    content.append(line)
                for one in envelope if self.lmtp else [None]:
                    if self._answer(peer, "dot", "250 2.0.0 queued", one or ""):
                        with self.lock:
                            self.messages.append(([one] if one else list(envelope), b"".join(content)))
                envelope = []
            elif verb == "QUIT":
                peer.sendall(b"221 bye\r\n")
                return
            else:
                peer.sendall(b"500 5.5.1 what\r\n")


def post(relay, *to, source=SENDER, lines=1):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        text = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * lines
        refused = client.sendmail(source, list(to), text)
    assert not refused, refused


QUICK = [word for setting in (
    "delivery.greeting_timeout=2s", "delivery.hello_timeout=2s", "delivery.mail_timeout=2s",
    "delivery.recipient_timeout=2s", "delivery.data_timeout=2s", "delivery.content_timeout=2s",
    "delivery.end_of_data_timeout=2s", "delivery.tls_timeout=2s", "delivery.connect_timeout=2s",
) for word in ("--set", setting)]

# Stage, what the first host does there. All of it goes to the next host.
FIRST_FAILS = [
    (stage, act)
    for stage in ("greeting", "ehlo", "mail", "rcpt", "data", "dot")
    for act in ("450 4.2.0 later", "451 4.3.0 busy", "452 4.3.1 full", "421 4.3.2 closing", CLOSE)
] + [("content", CLOSE), ("greeting", SILENT), ("mail", SILENT), ("rcpt", SILENT), ("data", SILENT)]


def the_next_mx_takes_what_the_first_does_not():
    """RFC 5321 5.1, at the first attempt, pipelined and one by one."""
    port = free_port()
    with NameServers() as names, Hop(host="127.0.0.3", port=port) as second:
        for offers in (OFFERS, ("8BITMIME",)):
            for stage, act in FIRST_FAILS:
                before = len(second.messages)
                with Hop({stage: act}, "127.0.0.2", port, offers) as first, relay_by(
                    names.unbound, port, *QUICK, cores="1", retry_first="60s"
                ) as relay:
                    # A small message leaves together with its dot.
                    post(relay, "b@preferred.names.test", lines=10_000 if stage == "content" else 1)
                    ends = wait_until(f"an outcome with {act!r} to {stage}", lambda: [
                        event for event in relay.events()
                        if event["event"] in ("delivered", "deferred", "bounced")])
                    event, what = ends[0], (stage, act, offers, ends)
                    assert event["event"] == "delivered", what
                    assert event["attempt"] == 1 and "127.0.0.3" in event["remote"], what
                    wait_until("the second host has it", lambda: len(second.messages) == before + 1)
                    assert not first.messages, what
                    assert [host["remote"].split()[0] for host in event["hosts"]][:2] == [
                        "mx3.names.test", "mx2.names.test"], what
                    if act not in (CLOSE, SILENT):
                        assert event["hosts"][1]["code"] == int(act[:3]), what
                    assert not relay.events("deferred"), what
                    assert first.connections <= 2, what
                    assert "attempt_ms" in event, what


def equal_hosts_and_several_addresses_are_next_hosts_too():
    for domain in ("equal.names.test", "two-ways.names.test"):
        port = free_port()
        addresses = ("127.0.0.2", "127.0.0.3") if domain.startswith("equal") else ("127.0.0.2", "127.0.0.9")
        for bad in addresses:
            with NameServers() as names, contextlib.ExitStack() as stack:
                for address in addresses:
                    script = {"rcpt": "450 4.2.0 later"} if address == bad else {}
                    stack.enter_context(Hop(script, address, port))
                with relay_by(names.unbound, port, *QUICK, cores="1", retry_first="60s") as relay:
                    for _ in range(4):
                        post(relay, f"b@{domain}")
                    for event in relay.wait_event("delivered", 4):
                        assert event["attempt"] == 1 and bad not in event["remote"], event
                    assert not relay.events("deferred")


def only_the_recipients_that_were_deferred_go_to_the_next_host():
    port = free_port()
    replies = {"later@": "450 4.2.0 later", "never@": "550 5.1.1 no such user"}
    by_word = lambda command: next((act for word, act in replies.items() if word in command), None)
    with NameServers() as names, Hop({"rcpt": by_word}, "127.0.0.2", port) as first:
        with Hop(host="127.0.0.3", port=port) as second:
            with relay_by(names.unbound, port, *QUICK, cores="1", retry_first="60s") as relay:
                post(relay, *(f"{name}@preferred.names.test" for name in ("good", "later", "never")))
                relay.wait_event("delivered", 2)
                assert first.messages[0][0] == ["good@preferred.names.test"], first.messages
                assert second.messages[0][0] == ["later@preferred.names.test"], second.messages
                bounced, = relay.wait_event("bounced")
                assert bounced["to"].startswith("never@") and bounced["code"] == 550, bounced


def only_after_the_last_host_is_it_deferred_and_the_reason_names_all():
    port = free_port()
    with NameServers() as names, Hop({"rcpt": "451 4.7.1 greylisted"}, "127.0.0.2", port):
        with Hop({"greeting": "421 4.7.0 blocked"}, "127.0.0.3", port), relay_by(
            names.unbound, port, *QUICK, cores="1", retry_first="60s"
        ) as relay:
            post(relay, "b@preferred.names.test")
            event, = relay.wait_event("deferred")
            assert event["code"] in (421, 451) and len(event["hosts"]) == 2, event
            assert {host["code"] for host in event["hosts"]} == {421, 451}, event
            code, text, _ = relay.command("queue", "show", event["id"])
            assert code == 0 and "greylisted" in text and "blocked" in text, text


def a_servers_reply_beats_a_refused_connection():
    """The first host says why, the second refuses the connection: the reply is the reason."""
    port = free_port()
    with NameServers() as names, Hop({"greeting": "421 4.7.0 blocked"}, "127.0.0.2", port), relay_by(
        names.unbound, port, *QUICK, cores="1", retry_first="60s"
    ) as relay:
        post(relay, "b@preferred.names.test")
        event, = relay.wait_event("deferred")
        assert event["code"] == 421 and event["text"] == "blocked", event
        assert [host["code"] if "code" in host else 0 for host in event["hosts"]] == [421, 0], event


def a_host_that_is_silent_after_the_dot_keeps_the_message_from_the_next_one():
    """It mostly works on the message: RFC 5321 4.5.3.2.6."""
    port = free_port()
    with NameServers() as names, Hop({"dot": SILENT}, "127.0.0.2", port):
        with Hop(host="127.0.0.3", port=port) as second, relay_by(
            names.unbound, port, *QUICK, cores="1", retry_first="60s"
        ) as relay:
            post(relay, "b@preferred.names.test")
            event, = relay.wait_event("deferred")
            assert event["stage"] == "end-of-data" and "may have been delivered" in event["text"], event
            assert not second.messages


def a_host_that_closes_after_every_dot_gets_few_connections_and_all_copies_are_named():
    """Each connection that is lost there may have left a copy."""
    port = free_port()
    with NameServers() as names, Hop({"dot": CLOSE}, "127.0.0.2", port) as first, Hop(
        {"dot": CLOSE}, "127.0.0.3", port
    ) as second:
        with relay_by(names.unbound, port, *QUICK, cores="1", retry_first="60s") as relay:
            for number in range(30):
                post(relay, f"b{number}@preferred.names.test")
            event = relay.wait_event("deferred", 30)[0]
            assert [host["stage"] for host in event["hosts"]] == ["end-of-data"] * 2, event
            assert all("may have been delivered" in host["text"] for host in event["hosts"]), event
            # The 20 that were under way when the sender was held, and a few; at both hosts.
            assert first.connections + second.connections <= 52, (first.connections, second.connections)


def after_the_dot_what_can_be_understood_is_taken():
    replies = ["250-queued\r\n251 really", "250-queued\r\n250ok", "250 " + "x" * 5000, "\r\n250 ok",
               "scanning\r\n250 ok"]
    for lmtp in (False, True):
        queue = list(replies)
        with Hop({"dot": lambda _: queue.pop(0)}, lmtp=lmtp) as hop, Relay(
            "--set", f"route.smart_host={'lmtp://' if lmtp else ''}127.0.0.1:{hop.port}",
            cores="1", retry_first="60s",
        ) as relay:
            for number in range(len(replies)):
                post(relay, f"b{number}@sink.test")
                relay.wait_event("delivered", number + 1)
            assert not relay.events("deferred")


def one_senders_421_does_not_stop_the_others():
    refused = lambda command: "421 4.7.0 not you" if "bad@" in command else None
    with Hop({"mail": refused}) as hop, Relay(
        smart_host=hop.port, cores="1", retry_first="60s"
    ) as relay:
        for number in range(4):
            post(relay, f"b{number}@sink.test", source="bad@sender.names.test")
            relay.wait_event("deferred", number + 1)
        assert hop.connections == 4, hop.connections
        # From here on the sender's mail is put off without a connection.
        for number in range(4, 12):
            post(relay, f"b{number}@sink.test", source="bad@sender.names.test")
        assert all(event["code"] == 421 for event in relay.wait_event("deferred", 12))
        assert hop.connections == 4, hop.connections
        # The others' mail goes, over one connection as long as one is enough.
        for number in range(12):
            post(relay, f"c{number}@sink.test")
            relay.wait_event("delivered", number + 1, 10)
        assert all(not site.get("backs_off_until") for site in relay.sites()), relay.sites()
        assert hop.connections <= 6, hop.connections


def a_421_to_one_recipient_leaves_the_others():
    says = lambda command: "421 4.7.0 not that one" if "b2@" in command else None
    for offers in (OFFERS, ("8BITMIME",)):
        with Hop({"rcpt": says}, offers=offers) as hop, Relay(
            smart_host=hop.port, cores="1", retry_first="60s"
        ) as relay:
            post(relay, *(f"b{number}@sink.test" for number in range(5)))
            events = relay.wait_event("delivered", 4)
            assert {event["to"] for event in events} == {f"b{n}@sink.test" for n in (0, 1, 3, 4)}
            event, = relay.wait_event("deferred")
            assert event["to"] == "b2@sink.test" and event["code"] == 421, event


def a_421_to_one_recipient_and_a_closed_connection_leave_the_others():
    """They go at once over a new connection to the same host."""

    class Closing(Hop):
        def _answer(self, peer, stage, usual, argument=""):
            if stage == "rcpt" and "b2@" in argument:
                peer.sendall(b"421 4.7.0 not that one\r\n")
                raise EOFError
            return super()._answer(peer, stage, usual, argument)

    with Closing() as hop, Relay(smart_host=hop.port, cores="1", retry_first="60s") as relay:
        post(relay, *(f"b{number}@sink.test" for number in range(5)))
        relay.wait_event("delivered", 4)
        event, = relay.wait_event("deferred")
        assert event["to"] == "b2@sink.test" and event["code"] == 421, event
        assert hop.connections == 2, hop.connections


def a_refused_rset_costs_a_connection_and_nothing_else():
    for reply in ("503 5.5.1 order", "500 5.5.1 what", "421 4.3.2 closing", CLOSE):
        refused = lambda command: "550 5.1.1 no" if "bad" in command else None
        with Hop({"rset": reply, "rcpt": refused}) as hop, Relay(
            "--set", "pool.connections_per_site=1", smart_host=hop.port, cores="1", retry_first="60s"
        ) as relay:
            post(relay, "bad@sink.test")
            relay.wait_event("bounced")
            post(relay, "good@sink.test")
            relay.wait_event("delivered")
            assert not relay.events("deferred"), (reply, relay.events("deferred"))


def a_host_that_hangs_up_at_every_message_gets_few_connections():
    for stage in ("mail", "rcpt", "data"):
        with Hop({stage: CLOSE}) as hop, Relay(
            smart_host=hop.port, cores="1", retry_first="60s"
        ) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                for number in range(100):
                    client.sendmail(SENDER, [f"b{number}@sink.test"], b"Subject: x\r\n\r\nx\r\n")
            relay.wait_event("deferred", 100, 30)
            assert hop.connections <= 40, (stage, hop.connections)


def first_hop_hangs_up_at_every_message_and_the_second_takes_all():
    port = free_port()
    with NameServers() as names, Hop({"mail": CLOSE}, "127.0.0.2", port) as first:
        with Hop(host="127.0.0.3", port=port) as second, relay_by(
            names.unbound, port, *QUICK, cores="1", retry_first="60s"
        ) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                for number in range(60):
                    client.sendmail(
                        SENDER, [f"b{number}@preferred.names.test"], b"Subject: x\r\n\r\nx\r\n"
                    )
            relay.wait_event("delivered", 60, 30)
            assert len(second.messages) == 60 and not relay.events("deferred")
            assert first.connections <= 30, first.connections


def a_reply_that_drips_is_given_up():
    with Hop({"mail": b"250 " + b"x" * 2000}) as hop, Relay(
        *QUICK, smart_host=hop.port, cores="1", retry_first="60s"
    ) as relay:
        began = time.monotonic()
        post(relay, "b@sink.test")
        event, = relay.wait_event("deferred", 1, 15)
        assert "timed out before the reply to MAIL" in event["text"], event
        assert time.monotonic() - began < 12


def server_context(pair, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if version:
        context.maximum_version = version
    return context


def tls_that_breaks_after_the_handshake_is_done_without_and_remembered():
    with certificates("127.0.0.1") as (made, _):
        with Hop(tls=server_context(made["127.0.0.1"]), after_handshake=CLOSE) as hop:
            with Relay("--set", "pool.messages_per_connection=1", *QUICK,
                       smart_host=hop.port, cores="1", retry_first="60s") as relay:
                for number in range(5):
                    post(relay, f"b{number}@sink.test")
                    event = relay.wait_event("delivered", number + 1)[number]
                    assert "tls" not in event and event["attempt"] == 1, event
                assert hop.handshakes == 1, hop.handshakes
                site, = [site for site in relay.sites() if site.get("fallbacks")]
                known, = site["fallbacks"]
                assert known["broken"] == "tls" and str(hop.port) in known["remote"], known
            with Relay("--set", "route.tls=must", *QUICK,
                       smart_host=hop.port, cores="1", retry_first="60s") as relay:
                post(relay, "c@sink.test")
                event, = relay.wait_event("deferred")
                assert event["stage"] == "tls", event


def starttls_that_is_never_answered_is_done_without():
    with certificates("127.0.0.1") as (made, _):
        with Hop({"starttls": SILENT}, tls=server_context(made["127.0.0.1"])) as hop:
            with Relay(*QUICK, smart_host=hop.port, cores="1", retry_first="60s") as relay:
                post(relay, "b@sink.test")
                event, = relay.wait_event("delivered")
                assert event["attempt"] == 1 and "tls" not in event, event


def starttls_that_is_refused_is_done_without_and_not_remembered():
    """After 421 the host closes the connection: a new one in the clear, in the same attempt."""
    with certificates("127.0.0.1") as (made, _):
        context = server_context(made["127.0.0.1"])
        for reply, connections in (("454 4.7.0 not now", 1), ("502 5.5.1 no", 1), ("421 4.7.0 no", 2)):
            with Hop({"starttls": reply}, tls=context) as hop, Relay(
                *QUICK, smart_host=hop.port, cores="1", retry_first="60s"
            ) as relay:
                post(relay, "b@sink.test")
                event, = relay.wait_event("delivered")
                assert event["attempt"] == 1 and "tls" not in event, (reply, event)
                assert hop.connections == connections, (reply, hop.connections)
                assert not [site for site in relay.sites() if site.get("fallbacks")], relay.sites()
            port = free_port()
            with NameServers() as names, Hop({"starttls": reply}, "127.0.0.2", port, tls=context):
                with Hop(host="127.0.0.3", port=port, tls=context) as second, relay_by(
                    names.unbound, port, "--set", "route.tls=must", *QUICK, cores="1", retry_first="60s"
                ) as relay:
                    post(relay, "b@preferred.names.test")
                    event, = relay.wait_event("delivered")
                    assert event["attempt"] == 1 and event["tls"].startswith("TLSv1"), (reply, event)
                    assert event["hosts"][1]["code"] == int(reply[:3]), (reply, event)
                    assert len(second.messages) == 1


def plaintext_behind_the_reply_to_starttls_is_dropped():
    with certificates("127.0.0.1") as (made, _):
        context = server_context(made["127.0.0.1"])
        with Hop(tls=context, after_starttls=b"250-evil\r\n250 AUTH PLAIN\r\n") as hop:
            with Relay("--set", "route.tls=must", *QUICK,
                       smart_host=hop.port, cores="1", retry_first="60s") as relay:
                post(relay, "b@sink.test")
                event, = relay.wait_event("delivered")
                assert event["tls"].startswith("TLSv1"), event


def a_refused_resumption_is_followed_by_a_full_handshake():
    with certificates("127.0.0.1") as (made, _):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for tls in ("may", "must"):
                context = server_context(made["127.0.0.1"], version)
                with Hop(tls=context, after_handshake="refuse-resumed") as hop, Relay(
                    "--set", f"route.tls={tls}", "--set", "pool.messages_per_connection=1", *QUICK,
                    smart_host=hop.port, cores="1", retry_first="60s",
                ) as relay:
                    for number in range(8):
                        post(relay, f"b{number}@sink.test")
                        event = relay.wait_event("delivered", number + 1)[number]
                        assert event.get("tls", "").startswith("TLSv1"), (tls, number, event)
                    assert not relay.events("deferred")
                    assert hop.handshakes <= 10, hop.handshakes


def a_long_reply_to_ehlo_is_read():
    offers = (*(f"X-KEYWORD-{number}" for number in range(3000)), *OFFERS)
    with Hop(offers=offers) as hop, Relay(smart_host=hop.port, cores="1", retry_first="60s") as relay:
        post(relay, "b@sink.test")
        relay.wait_event("delivered")


def pipelining_that_breaks_is_done_without():
    """A host that answers the first command of a batch and drops the others."""

    class Breaking(Hop):
        def _talk(self, peer):
            peer.sendall(b"220 hop ESMTP\r\n")
            pending = b""
            while True:
                more = peer.recv(65536)
                if not more:
                    return
                pending += more
                if pending.startswith(b"MAIL") and pending.count(b"\r\n") > 1:
                    peer.sendall(b"250 ok\r\n")
                    return
                while b"\r\n" in pending:
                    line, pending = pending.split(b"\r\n", 1)
                    with self.lock:
                        self.commands.append(line.decode(errors="replace"))
                    if line[:4] == b"EHLO":
                        peer.sendall(b"250-hop\r\n250 PIPELINING\r\n")
                    elif line == b"DATA":
                        peer.sendall(b"354 go\r\n")
                    elif line == b".":
                        self.messages.append(line)
                        peer.sendall(b"250 queued\r\n")
                    elif line[:4] in (b"MAIL", b"RCPT", b"RSET"):
                        peer.sendall(b"250 ok\r\n")
                    elif line == b"QUIT":
                        return

    with Breaking() as hop, Relay(
        "--set", "pool.messages_per_connection=1", smart_host=hop.port, cores="1", retry_first="60s"
    ) as relay:
        for number in range(4):
            post(relay, f"b{number}@sink.test")
            event = relay.wait_event("delivered", number + 1)[number]
            assert event["attempt"] == 1, event
        assert hop.connections == 5, hop.connections
        known = [entry for site in relay.sites() for entry in site.get("fallbacks", [])]
        assert [entry["broken"] for entry in known] == ["pipelining"], known


def a_report_with_8_bit_content_goes_out_as_7_bit():
    """The message comes back with RET=FULL, and no host offers 8BITMIME."""
    with Hop(offers=("PIPELINING",)) as hop, Relay(
        smart_host=hop.port, cores="1", retry_first="60s"
    ) as relay:
        text = "Subject: gr\u00fcn\r\n\r\ngr\u00fcn\r\n".encode()
        plain = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngr\u00fcn\r\n".encode()
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            for content in (plain, text):
                client.sendmail(SENDER, ["b@sink.test"], content, ["BODY=8BITMIME", "RET=FULL"])
        relay.wait_event("bounced", 2)
        relay.wait_event("delivered", 2)
        wait_until("both reports are there", lambda: len(hop.messages) == 2)
        for _, report in hop.messages:
            assert report.isascii() and b"multipart/report" in report, report
        assert not relay.events("dropped")


TESTS = [
    a_report_with_8_bit_content_goes_out_as_7_bit,
    the_next_mx_takes_what_the_first_does_not,
    equal_hosts_and_several_addresses_are_next_hosts_too,
    only_the_recipients_that_were_deferred_go_to_the_next_host,
    only_after_the_last_host_is_it_deferred_and_the_reason_names_all,
    a_servers_reply_beats_a_refused_connection,
    a_host_that_is_silent_after_the_dot_keeps_the_message_from_the_next_one,
    a_host_that_closes_after_every_dot_gets_few_connections_and_all_copies_are_named,
    after_the_dot_what_can_be_understood_is_taken,
    one_senders_421_does_not_stop_the_others,
    a_421_to_one_recipient_leaves_the_others,
    a_421_to_one_recipient_and_a_closed_connection_leave_the_others,
    a_refused_rset_costs_a_connection_and_nothing_else,
    a_host_that_hangs_up_at_every_message_gets_few_connections,
    first_hop_hangs_up_at_every_message_and_the_second_takes_all,
    a_reply_that_drips_is_given_up,
    tls_that_breaks_after_the_handshake_is_done_without_and_remembered,
    starttls_that_is_never_answered_is_done_without,
    starttls_that_is_refused_is_done_without_and_not_remembered,
    plaintext_behind_the_reply_to_starttls_is_dropped,
    a_refused_resumption_is_followed_by_a_full_handshake,
    a_long_reply_to_ehlo_is_read,
    pipelining_that_breaks_is_done_without,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
