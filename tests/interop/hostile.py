"""Hostile and broken clients and next hops: the relay stays within its bounds, serves the others and
loses nothing."""

import contextlib
import os
import resource
import smtplib
import socket
import struct
import tempfile
import threading
import time

from clients import send
from harness import Relay, Sink, dialogue, free_port, main, wait_until, without_trace

MIB = 1024 * 1024
ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@sink.test>\r\n"


def memory(relay):
    """Resident bytes of the relay."""
    with open(f"/proc/{relay.process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def open_files(relay):
    return len(os.listdir(f"/proc/{relay.process.pid}/fd"))


def connect(relay, greeting=b"220"):
    """A connection after its greeting."""
    peer = socket.create_connection(("127.0.0.1", relay.port), 10)
    peer.settimeout(10)
    assert peer.recv(1000).startswith(greeting)
    return peer


def reset(peer):
    """Closes with RST instead of FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def push(peer, part, bytes_max, patience=1.0):
    """Sends `part` repeatedly without reading until no more is accepted; returns the bytes sent."""
    peer.settimeout(patience)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < bytes_max:
            sent += peer.send(part)
    return sent


def read_to_close(peer, seconds=20):
    """Everything received until the relay closes."""
    peer.settimeout(seconds)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := peer.recv(65536):
            received += more
    return received


def at_once(count, work):
    """Runs `work(number)` in `count` threads; raises the first fault."""
    faults = []

    def run(number):
        try:
            work(number)
        except Exception as fault:  # noqa: BLE001 - raised in the caller
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "not done in time"
    if faults:
        raise faults[0]


def commands_without_reading_the_replies_are_bounded():
    """Small commands with larger replies: the relay stops reading, and its memory does not grow."""
    with Relay(cores="1") as relay:
        before = memory(relay)
        peers = [connect(relay) for _ in range(40)]
        for number, peer in enumerate(peers):
            word = (b"HELP\r\n", b"EHLO a\r\n", b"NOOP\r\n", b"VRFY a\r\n")[number % 4]
            sent = push(peer, word * 8000, 64 * MIB, patience=0.3)
            assert sent < 64 * MIB, f"{word} is read for ever"
        grown = memory(relay) - before
        print(f"       40 floods: {grown // 1024} KiB more")
        assert grown < 40 * 200 * 1024, f"{grown} bytes for 40 connections"
        send(relay.port)
        for peer in peers:
            reset(peer)


def slow_clients_do_not_block_others():
    """Hundreds of clients that send a byte now and then, in commands and in content."""
    with Sink() as sink, Relay("--set", "session.command_timeout=3s", "--set",
                               "session.data_timeout=3s", smart_host=sink.port) as relay:
        before, files = memory(relay), open_files(relay)
        peers = [connect(relay) for _ in range(600)]
        for number, peer in enumerate(peers):
            peer.sendall(ENVELOPE + b"DATA\r\nS" if number % 2 else b"EHL")
        began = time.monotonic()
        for _ in range(3):
            for peer in peers:
                peer.sendall(b"x")
            for _ in range(10):
                send(relay.port)
            time.sleep(0.2)
        sink.wait(30)
        took, grown = time.monotonic() - began, memory(relay) - before
        print(f"       600 slow clients: {grown // 1024} KiB more, 30 messages in {took:.1f} s")
        assert grown < 60 * MIB and took < 10
        # Finally silent: each gets its reply, and is disconnected.
        assert all(b"421 4.4.2" in read_to_close(peer) for peer in peers)
        wait_until("descriptors come back", lambda: open_files(relay) <= files + 4)


def endless_lines_end():
    with Relay("--set", "session.message_bytes_max=1MiB", cores="1") as relay:
        before = memory(relay)
        with connect(relay) as peer:
            push(peer, b"x" * 65536, 64 * MIB, patience=2)
            assert b"500 5.5" in read_to_close(peer)
        # A header line without end, then much more than the allowed size.
        for line in (b"Subject: " + b"y" * 65536, b"z" * 70 + b"\r\n"):
            with connect(relay) as peer:
                peer.sendall(ENVELOPE + b"DATA\r\n")
                sent = push(peer, line * 16, 256 * MIB, patience=5)
                assert sent >= 256 * MIB, "the rest is dropped"
                peer.sendall(b"\r\n.\r\nQUIT\r\n")
                replies = read_to_close(peer)
                assert b"\r\n55" in replies and b"221" in replies, replies[-200:]
        grown = memory(relay) - before
        print(f"       half a GiB after refusals: {grown // 1024} KiB more")
        assert grown < 16 * MIB and not relay.events("received")


def five_thousand_recipients_are_accepted_in_portions():
    with Sink() as sink, Relay(smart_host=sink.port) as relay, connect(relay) as peer:
        peer.sendall(b"EHLO c.test\r\nMAIL FROM:<a@sender.test>\r\n")
        replies = []

        def read():
            with peer.makefile("rb") as lines:
                for line in lines:
                    replies.append(line)
                    if line.startswith(b"221"):
                        return

        reader = threading.Thread(target=read)
        reader.start()
        peer.sendall(b"".join(b"RCPT TO:<u%d@sink.test>\r\n" % n for n in range(5000)))
        peer.sendall(b"DATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n")
        reader.join(20)
        codes = [line[:9] for line in replies]
        assert codes.count(b"250 2.1.5") == 1000 and codes.count(b"452 4.5.3") == 4000, codes[-5:]
        sink.wait(10)
        relay.wait_event("delivered", 1000)


def drip(peer, bytes_at_a_time, seconds, pause=0.1):
    """Sends a piece every `pause` until the relay sends 421 or `seconds` have passed; returns its replies."""
    end, received = time.monotonic() + seconds, b""
    peer.settimeout(pause)
    while time.monotonic() < end and b"421" not in received:
        try:
            peer.sendall(bytes_at_a_time)
            received += peer.recv(65536)
            time.sleep(pause)
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return received


def clients_that_drip_are_disconnected():
    limits = ["--set", "session.command_timeout=2s", "--set", "session.data_timeout=2s", "--set",
              "session.message_timeout=6s", "--set", "session.idle_timeout=4s"]
    with Relay(*limits, "--set", "session.data_rate_min=1000") as relay:
        # A command, byte by byte.
        assert b"421 4.4.2 Timeout exceeded" in drip(connect(relay), b"x", 8)
        # Commands without mail.
        assert b"421 4.4.2 No mail for too long" in drip(connect(relay), b"NOOP\r\n", 12)
        # Content, a few bytes at a time; then enough of it, but without an end.
        for piece, words in ((b"x\r\n", b"Data transfer too slow"), (b"x" * 998 + b"\r\n", b"Message took too long")):
            peer = connect(relay)
            peer.sendall(ENVELOPE + b"DATA\r\n")
            time.sleep(0.3)
            assert b"354 " in peer.recv(65536)
            received = drip(peer, piece, 15)
            assert b"421 4.4.2 " + words in received, received
    # Without a limit on the time, there is one on the number of such commands.
    with Relay("--set", "session.junk_commands_max=30") as relay:
        received = dialogue(relay.port, b"EHLO client.test\r\n" + b"NOOP\r\n" * 40)
        assert received.count(b"250 2.0.0 OK") == 29 and b"421 4.7.0 Too many commands" in received, received
        # A message resets it.
        for _ in range(3):
            message = ENVELOPE + b"DATA\r\nSubject: x\r\n\r\n.\r\n"
            received = dialogue(relay.port, (message + b"NOOP\r\n" * 20) * 3 + b"QUIT\r\n")
            assert received.count(b"queued as") == 3 and b"421" not in received, received


def relay_clients_may_use_the_address_forms_that_postfix_accepts():
    forms = [b"a@sink.test", b" b@sink.test", b"<<c@sink.test>>", b"< d@sink.test >", b"<e@sink.test.>",
             b"<f..g@sink.test>", b"<h.@sink.test>"]
    sent = (b"EHLO client.test\r\nMAIL FROM:joe@sender.test SIZE=100\r\n"
            + b"".join(b"RCPT TO:" + form + b"\r\n" for form in forms)
            + b"RCPT TO:<a@SINK.test>\r\nRCPT TO:a@sink.test\r\n")
    content = (b"DATA\r\n", b"Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n")
    plain = {f"{name}@sink.test" for name in "abcde"}
    # The sink shows addresses without their quotes.
    odd = {"f..g@sink.test", "h.@sink.test"}
    for flags in ([], ["--set", "session.keep_odd_dots=true"]):
        with Sink() as sink, Relay(*flags, smart_host=sink.port) as relay:
            replies = dialogue(relay.port, sent, *content)
            assert replies.count(b"250 2.1.5 ") == 9 and b"queued as" in replies, replies
            wait_until("all", lambda: sum(len(to) for _, to, _ in sink.messages) >= 7)
            relay.wait_empty()
            got = [to for _, recipients, _ in sink.messages for to in recipients]
            assert sorted(got) == sorted(plain | odd), got
            assert relay.wait_event("received")[0]["size"] > 0
    for flags in (["--set", "session.lenient=false"], ["--set", 'access.relay_networks=["192.0.2.0/24"]']):
        with Relay(*flags) as relay:
            replies = dialogue(relay.port, b"EHLO client.test\r\nMAIL FROM:joe@sender.test\r\nQUIT\r\n")
            assert b"\r\n501 5.1.7 " in replies, replies


def bad_recipients_do_not_end_the_session_of_a_relay_client():
    bad = [f"{name}{n}{rest}" for n in range(9) for name, rest in (("a@b", "-"), ("a b", "@c.test"), ("none", ""))]
    good = [f"good{n}@sink.test" for n in range(175)]
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        peer = connect(relay)
        mixed = sorted(good + bad[:25])
        assert len(mixed) == 200
        peer.sendall(b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\n")
        peer.sendall(b"".join(b"RCPT TO:<%s>\r\n" % one.encode() for one in mixed) + b"DATA\r\n")
        replies = b""
        while b"354 " not in replies:
            replies += peer.recv(65536)
        assert replies.count(b"250 2.1.5 ") == 175 and replies.count(b"501 5.1.3 ") == 25, replies
        peer.sendall(b"Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n")
        assert b"250 2.0.0 queued" in read_to_close(peer)
        wait_until("all good ones", lambda: sum(len(to) for _, to, _ in sink.messages) == 175)
        assert {one for _, to, _ in sink.messages for one in to} == set(good)
    # The limit applies to any other client.
    with Relay("--set", 'access.relay_networks=["192.0.2.0/24"]') as relay:
        sent = b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\n" + b"RCPT TO:<b@c.test>\r\n" * 30
        replies = dialogue(relay.port, sent)
        assert replies.count(b"550 5.7.1 ") == 20 and b"\r\n421 4.7.0 " in replies, replies
        assert replies.endswith(b"<closed>"), replies


def strange_commands_are_answered_and_nothing_is_smuggled():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        for line, code in (
            (b"STARTTLS\r\n", b"50"), (b"AUTH PLAIN AGEAYg==\r\n", b"50"), (b"BDAT 0 LAST\r\n", b"50"),
            (b"MAIL FROM:<\xff@b.test>\r\n", b"5"), (b"NO\0OP\r\n", b"50"), (b"\r\n", b"50"),
            (b"XCLIENT ADDR=1.2.3.4\r\n", b"550"), (b"TURN\r\n", b"50"), (b"EHLO\r\n", b"501"),
            (b"HELO a b c\r\n", b"2"), (b"HELO a\x0bb\r\n", b"50"),
            (b"EHLO x)\x01(Received: y\r\n", b"50"), (b"MAIL FROM: <a@b.test>\r\n", b""),
        ):
            replies = dialogue(relay.port, b"EHLO c.test\r\n", line, b"QUIT\r\n").split(b"\r\n")
            assert replies[-2].startswith(b"221"), (line, replies)
            assert replies[-3].startswith(code), (line, replies)
        replies = dialogue(
            relay.port, b"HELO client.test (x) by y; z\r\n", b"HELO [127.0.0.1]\r\n",
            b"MAIL FROM:<@one.test,@two.test:a@sender.test>\r\n",
            b'RCPT TO:<@three.test:"q u\\"o"@sink.test>\r\n', b"DATA\r\n",
            b"Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n",
        )
        assert replies.count(b"\r\n250") >= 3 and b"queued as" in replies, replies
        (source, recipients, content), = sink.wait()
        assert source == "a@sender.test" and recipients == ['"q u\\"o"@sink.test'], recipients
        assert without_trace(content) == b"Subject: x\r\n\r\nbody\r\n", content


def a_client_that_closes_its_side_gets_its_reply():
    """Half-closed after the last byte; and one that resets the connection in the middle."""
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        files = open_files(relay)
        with connect(relay) as peer:
            peer.sendall(ENVELOPE + b"DATA\r\n")
            time.sleep(0.2)
            peer.sendall(b"Subject: x\r\n\r\n.\r\n")
            peer.shutdown(socket.SHUT_WR)
            assert b"queued as" in read_to_close(peer)
        whole = ENVELOPE + b"DATA\r\nSubject: half\r\n\r\nbody"
        for cut in range(0, len(whole), 3):
            peer = connect(relay)
            peer.sendall(whole[:cut])
            reset(peer)
        send(relay.port)
        sink.wait(2)
        assert len(relay.wait_event("received", 2)) == 2
        wait_until("descriptors come back", lambda: open_files(relay) <= files + 4)


def connection_limits_refuse_clients_until_there_is_room():
    with Relay("--set", "core_default.connections_max=20", "--set",
               "session.connections_per_relay_client=10", cores="1") as relay:
        time.sleep(1.2)  # the harness's own connection is closed
        held = [connect(relay) for _ in range(10)]
        for _ in range(100):
            connect(relay, b"421 Too many").close()
        held.pop().close()
        wait_until("a place is free", lambda: greets(relay))
        for peer in held:
            reset(peer)
    with Relay("--set", "core_default.connections_max=20", cores="1") as relay:
        time.sleep(1.2)
        held = [connect(relay) for _ in range(20)]
        connect(relay, b"421 Too many").close()
        for peer in held:
            reset(peer)
        wait_until("places are free", lambda: greets(relay))


def greets(relay):
    with socket.create_connection(("127.0.0.1", relay.port), 5) as peer:
        peer.settimeout(5)
        return peer.recv(1000).startswith(b"220")


def connections_that_come_and_go_leave_nothing(count=4000):
    with Relay() as relay:
        for _ in range(200):
            reset(connect(relay))
        before, files = memory(relay), open_files(relay)
        for number in range(count):
            peer = socket.create_connection(("127.0.0.1", relay.port), 10)
            if number % 4 == 0:
                peer.recv(100)
                peer.sendall(ENVELOPE + b"DATA\r\nSubject: x")
            if number % 3 == 0:
                peer.close()
            else:
                reset(peer)
        wait_until("descriptors come back", lambda: open_files(relay) <= files + 4)
        grown = memory(relay) - before
        print(f"       {count} connections: {grown // 1024} KiB more")
        assert grown < 8 * MIB
        send(relay.port)


def without_descriptors_the_relay_waits_and_continues():
    """The limit of open files is below the number of clients."""
    with Sink() as sink, Relay(smart_host=sink.port, cores="1") as relay:
        pid, files = relay.process.pid, open_files(relay)
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 20, limit[1]))
        peers = [socket.create_connection(("127.0.0.1", relay.port), 5) for _ in range(100)]
        time.sleep(1)
        spare = next(peer for peer in peers if talks(peer))
        spare.sendall(ENVELOPE + b"DATA\r\nSubject: x\r\n\r\n.\r\n")
        time.sleep(1)
        used = time_used(pid)
        time.sleep(1)
        assert time_used(pid) - used < 0.5, "it does not spin"
        for peer in peers:
            reset(peer)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        wait_until("the relay greets", lambda: greets(relay))
        send(relay.port)
        sink.wait(2)
        relay.wait_empty()


def talks(peer):
    peer.settimeout(0.1)
    try:
        return peer.recv(100).startswith(b"220")
    except TimeoutError:
        return False


def time_used(pid):
    """Seconds of processor time."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def many_messages_on_one_connection_leave_nothing(count=3000):
    with Sink() as sink, Relay(smart_host=sink.port, cores="1") as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            before = 0
            for number in range(count):
                client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\n")
                client.docmd("MAIL FROM:<a@sender.test>")
                client.rset()
                before = before or (number == 500 and memory(relay))
        sink.wait(count, 60)
        grown = memory(relay) - before
        print(f"       {count} messages on one connection: {grown // 1024} KiB more")
        assert grown < 24 * MIB


def a_thousand_sessions_with_a_large_message_each(sessions=500):
    """In lockstep: all send, none ends, then all end."""
    with Relay("--set", "retry.first=1h", smart_host=free_port()) as relay:
        before = memory(relay)
        peers = [connect(relay) for _ in range(sessions)]
        for peer in peers:
            peer.sendall(ENVELOPE + b"DATA\r\n")
        line = b"x" * 76 + b"\r\n"

        def work(number):
            for peer in peers[number::20]:
                peer.settimeout(60)
                peer.sendall(line * (MIB // len(line)))

        at_once(20, work)
        grown = memory(relay) - before
        print(f"       {sessions} MiB half sent: {grown // MIB} MiB more")
        # Each holds up to spool.stream_threshold of content, and its receive buffer.
        assert grown < sessions * (256 + 64 + 64) * 1024 + 128 * MIB
        for peer in peers:
            peer.sendall(b".\r\nQUIT\r\n")
        for peer in peers:
            assert b"queued as" in read_to_close(peer, 60)
        assert len({entry["id"] for entry in relay.queue()}) == sessions
        time.sleep(1.5)
        print(f"       all taken: {(memory(relay) - before) // MIB} MiB more")


class Rogue:
    """A next hop that runs `act(peer, number)` for its `number`-th connection."""

    def __init__(self, act):
        self.act = act
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        self.open = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                self.open.append(peer)
                self.connections += 1
                threading.Thread(
                    target=self._serve, args=(peer, self.connections), daemon=True
                ).start()

    def _serve(self, peer, number):
        with contextlib.suppress(OSError), peer:
            peer.settimeout(60)
            self.act(peer, number)


def script(replies, default=b"250 ok\r\n", after_dot=b"250 taken\r\n", took=None):
    """SMTP except for `replies` (by verb; `.` is the end of data, `220` the greeting); None closes, an
    empty reply is silence. Accepted messages are added to `took`."""

    def act(peer, _):
        lines = peer.makefile("rb")

        def say(what, usual):
            reply = replies.get(what, usual)
            if reply is None:
                return False
            peer.sendall(reply)
            return True

        if not say("220", b"220 rogue\r\n"):
            return
        for line in lines:
            verb = line[:4].decode(errors="replace").strip().upper()
            if not say(verb, b"354 go\r\n" if verb == "DATA" else default):
                return
            if verb == "QUIT":
                return
            if verb == "DATA" and replies.get("DATA", b"354").startswith(b"354"):
                content = b""
                for part in lines:
                    if part == b".\r\n":
                        break
                    content += part
                if took is not None:
                    took.append(content)
                if not say(".", after_dot):
                    return

    return act


FAST = [
    f"--set=delivery.{name}=2s" for name in (
        "greeting_timeout", "hello_timeout", "mail_timeout", "recipient_timeout", "data_timeout",
        "content_timeout", "end_of_data_timeout",
    )
]


def every_broken_server_defers_mail_with_a_reason():
    """One relay, one broken site after another by its rules, and a working one beside them."""
    endless = lambda part: lambda peer, _: push(peer, part, 256 * MIB, 30)  # noqa: E731
    took = []
    cases = {
        "silent.test": (lambda peer, _: time.sleep(8), "timed out before the greeting"),
        "closes.test": (lambda peer, _: None, "closed"),
        "resets.test": (lambda peer, _: reset(peer), ""),
        "garbage.test": (endless(os.urandom(4096).replace(b"\n", b"x") + b"\r\n"), "not a reply"),
        "zeros.test": (endless(b"\0" * 65536), "longer than"),
        "line.test": (endless(b"220-" + b"x" * 65536), "longer than"),
        "lines.test": (endless(b"220-hello\r\n" * 1000), "a reply longer than 1048576 bytes"),
        "flood.test": (endless(b"250 ok\r\n" * 1000), "without a command"),
        "early.test": (script({"220": b"220 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n"}),
                       "without a command"),
        "ehlo.test": (script({"EHLO": None}), "before the reply to EHLO"),
        "mail.test": (script({"MAIL": None}), "before the reply to MAIL"),
        "rcpt.test": (script({"RCPT": None}), "before the reply to RCPT"),
        "data.test": (script({"DATA": None}), "before the reply to DATA"),
        "dot.test": (script({".": None}), "it may have been delivered"),
        "dotless.test": (script({".": b""}), "timed out after the end of the message"),
        "no354.test": (script({"DATA": b"250 ok\r\n"}), "broke the protocol"),
        "code.test": (script({"MAIL": b"999 what\r\n"}), "not a reply"),
        "three.test": (script({"MAIL": b"354 go\r\n"}), "broke the protocol"),
        "changes.test": (script({"EHLO": b"250-a\r\n550 b\r\n"}), "begins with 250"),
        "dot354.test": (script({".": b"354 more\r\n"}), "may have been delivered"),
        "goodbye.test": (script({"MAIL": b"421 4.3.2 bye\r\n"}), "bye"),
    }
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Sink())
        file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".toml"))
        for domain, (act, _) in cases.items():
            rogue = stack.enter_context(Rogue(act))
            file.write(f'[[route.rule]]\ndomain = "{domain}"\nnext_hop = "127.0.0.1:{rogue.port}"\n')
        file.flush()
        relay = stack.enter_context(
            Relay("--config", file.name, *FAST, smart_host=sink.port, retry_first="60s")
        )
        before = memory(relay)
        for domain in cases:
            send(relay.port, to=(f"b@{domain}",))
            send(relay.port)
        sink.wait(len(cases), 5)
        deferred = {event["to"]: event for event in relay.wait_event("deferred", len(cases), 30)}
        for domain, (_, words) in cases.items():
            event = deferred[f"b@{domain}"]
            assert words in event["text"], (domain, event)
        assert len(relay.queue()) == len(cases) and not took
        grown = memory(relay) - before
        print(f"       {len(cases)} broken servers: {grown // 1024} KiB more")
        assert grown < 24 * MIB


def a_server_that_drips_does_not_block_mail_for_ever():
    """One byte a second of an endless reply never reaches the timeout of a single receive."""
    def drip(peer, _):
        peer.sendall(b"220-")
        with contextlib.suppress(OSError):
            for _ in range(120):
                peer.sendall(b"x")
                time.sleep(0.5)

    with Rogue(drip) as rogue, Relay(*FAST, smart_host=rogue.port, retry_first="60s") as relay:
        send(relay.port)
        event, = relay.wait_event("deferred", 1, 15)
        assert "timed out" in event["text"], event


def a_server_that_sends_421_after_each_message_gets_all():
    took = []
    act = script({".": b"250 taken\r\n421 enough\r\n"}, took=took)

    def one_message(peer, number):
        with contextlib.suppress(OSError):
            act(peer, number)

    with Rogue(one_message) as rogue, Relay(smart_host=rogue.port) as relay:
        for _ in range(30):
            send(relay.port)
        relay.wait_event("delivered", 30, 30)
        relay.wait_empty()
        assert len(took) == 30, len(took)


def a_server_that_accepts_two_connections_gets_all():
    for refusal in (b"421 4.7.0 too many\r\n", b""):
        took, there, lock = [], [0], threading.Lock()
        act = script({}, took=took)

        def at_most_two(peer, number):
            with lock:
                there[0] += 1
                full = there[0] > 2
            try:
                if full:
                    peer.sendall(refusal)
                else:
                    time.sleep(0.01)
                    act(peer, number)
            finally:
                with lock:
                    there[0] -= 1

        with Rogue(at_most_two) as rogue, Relay(smart_host=rogue.port, retry_first="1s") as relay:
            at_once(10, lambda _: [send(relay.port) for _ in range(30)])
            relay.wait_event("delivered", 300, 30)
            relay.wait_empty()
            deferred = len(relay.events("deferred"))
            print(f"       300 messages over {rogue.connections} connections, {deferred} deferred")
            assert len(took) == 300 and rogue.connections < 100 and deferred < 5


def connections_to_the_control_socket_are_bounded():
    """A script that forgets to close them takes 64 descriptors and no more; mail flows."""
    with Sink() as sink, Relay(smart_host=sink.port) as relay, contextlib.ExitStack() as held:
        before = open_files(relay)
        for _ in range(100):
            peer = held.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(5)
            peer.connect(str(relay.spool / "control.sock"))
        time.sleep(0.5)
        assert open_files(relay) - before <= 64 + 10, (before, open_files(relay))
        send(relay.port, b"Subject: x\r\n\r\nx\r\n")
        sink.wait(1)
        held.close()
        relay.wait_empty()


TESTS = [
    connections_to_the_control_socket_are_bounded,
    commands_without_reading_the_replies_are_bounded, slow_clients_do_not_block_others, endless_lines_end,
    five_thousand_recipients_are_accepted_in_portions,
    bad_recipients_do_not_end_the_session_of_a_relay_client, clients_that_drip_are_disconnected,
    relay_clients_may_use_the_address_forms_that_postfix_accepts,
    strange_commands_are_answered_and_nothing_is_smuggled,
    a_client_that_closes_its_side_gets_its_reply,
    connection_limits_refuse_clients_until_there_is_room,
    connections_that_come_and_go_leave_nothing, without_descriptors_the_relay_waits_and_continues,
    many_messages_on_one_connection_leave_nothing, a_thousand_sessions_with_a_large_message_each,
    every_broken_server_defers_mail_with_a_reason, a_server_that_drips_does_not_block_mail_for_ever,
    a_server_that_sends_421_after_each_message_gets_all,
    a_server_that_accepts_two_connections_gets_all,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
