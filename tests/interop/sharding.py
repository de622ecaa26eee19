"""Shards, sites and connections: a stop doubles no message, no site waits for another, no server is
hammered."""

import collections
import contextlib
import shutil
import smtplib
import socket
import socketserver
import subprocess
import threading
import time

from clients import send
from harness import BINARY, Relay, free_port, main, wait_until


class Server:
    """A next hop by threads, with hooks for its timing: `end_wait` seconds before the reply to the
    end of data; a connection beyond `connections_max` gets 421; `mail_reply` to MAIL."""

    def __init__(self, host="127.0.0.1", port=0, end_wait=0.0, connections_max=None,
                 mail_reply="250 2.1.0 ok"):
        outer = self
        self.subjects = []
        self.connects = self.open = 0
        self.sockets = []
        self.lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with outer.lock:
                    outer.connects += 1
                    outer.sockets.append(self.connection)
                    outer.open += 1
                    full = connections_max is not None and outer.open > connections_max
                try:
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"421 4.7.0 too many\r\n" if full else b"220 x\r\n")
                        if not full:
                            self.talk()
                finally:
                    with outer.lock:
                        outer.open -= 1

            def talk(self):
                data, subject = False, ""
                for line in self.rfile:
                    if data:
                        if line.startswith(b"Subject:"):
                            subject = line.split(b":", 1)[1].strip().decode()
                        if line == b".\r\n":
                            data = False
                            time.sleep(end_wait)
                            with outer.lock:
                                outer.subjects.append(subject)
                            self.wfile.write(b"250 2.0.0 ok\r\n")
                        continue
                    verb = line[:4].upper()
                    if verb == b"DATA":
                        data = True
                        self.wfile.write(b"354 go\r\n")
                    elif verb == b"MAIL":
                        self.wfile.write(mail_reply.encode() + b"\r\n")
                        if mail_reply.startswith("421"):
                            return
                    elif verb == b"QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    else:
                        self.wfile.write(b"250 2.0.0 ok\r\n")

        class Threads(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128

        self.server = Threads((host, port), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def doubled(self):
        return {what: n for what, n in collections.Counter(self.subjects).items() if n > 1}


def message(number):
    return f"Subject: {number}\r\n\r\nx\r\n".encode()


def an_outcome_for_another_shard_is_not_lost_at_the_stop():
    """A stop while eight connections of one owner are sending messages of both shards: the idle shard
    must wait for the results of its messages at the other."""
    flags = ["--set", "pool.connections_per_site=8", "--set", "pool.stripe_connections_min=100"]
    with Server(end_wait=1.0) as server, Relay(*flags, smart_host=server.port) as relay:
        send(relay.port, message("first"))  # the site is known to answer
        wait_until("the first arrives", lambda: server.subjects)
        for number in range(8):
            send(relay.port, message(number))
        time.sleep(0.4)
        relay.restart()
        wait_until("all arrive", lambda: len(set(server.subjects)) == 9)
        time.sleep(2)
        relay.wait_empty()
        assert not server.doubled(), server.doubled()


def a_client_in_its_content_does_not_abort_deliveries():
    with Server(end_wait=0.7) as server:
        flags = ["--set", "control.stop_within=3s", "--set", "pool.connections_per_site=4"]
        with Relay(*flags, smart_host=server.port, cores="1") as relay:
            with socket.create_connection(("127.0.0.1", relay.port), 5) as stuck:
                stuck.recv(100)
                stuck.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@c.test>\r\nDATA\r\n")
                for number in range(40):
                    send(relay.port, message(number))
                relay.restart()
            wait_until("all arrive", lambda: len(set(server.subjects)) == 40, 30)
            relay.wait_empty()
            assert not server.doubled(), server.doubled()


def a_slow_greeting_does_not_delay_the_stop():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with Relay(smart_host=silent.getsockname()[1], cores="1") as relay:
            send(relay.port)
            time.sleep(0.5)
            began = time.monotonic()
            assert relay.stop() == 0
            assert time.monotonic() - began < 4, time.monotonic() - began


def a_server_that_accepts_few_connections_is_not_hammered():
    with Server(end_wait=0.05, connections_max=2) as server:
        with Relay(smart_host=server.port, cores="1") as relay:
            send(relay.port, message("first"))
            wait_until("the first arrives", lambda: server.subjects)
            for number in range(100):
                send(relay.port, message(number))
            wait_until("all arrive", lambda: len(server.subjects) == 101, 30)
            assert server.connects < 60, server.connects
            assert not relay.events("deferred")


def a_server_that_ends_while_connections_are_idle_is_noticed_at_once():
    with Relay("--set", "pool.idle=30s", smart_host=(port := free_port()), cores="1") as relay:
        with Server(port=port, end_wait=0.2) as server:
            send(relay.port, message("first"))
            wait_until("the first arrives", lambda: server.subjects)
            for number in range(30):
                send(relay.port, message(number))
            wait_until("all arrive", lambda: len(server.subjects) == 31)
            site, = relay.sites()
            assert site["connections"] > 2, site
        with Server(port=port, connections_max=0) as server:
            send(relay.port)
            relay.wait_event("deferred", seconds=5)
            assert server.connects < 60, server.connects


def a_host_that_sends_421_to_mail_gets_few_connections_and_its_site_no_back_off():
    with Server(mail_reply="421 4.7.0 not today") as server:
        with Relay(smart_host=server.port, cores="1", retry_first="60s") as relay:
            for number in range(30):
                send(relay.port, message(number))
            relay.wait_event("deferred", 30)
            assert not any(site.get("backs_off_until") for site in relay.sites())
            assert server.connects < 15, server.connects


def at_the_limit_of_connections_sites_take_turns():
    port = free_port()
    flags = ["--set", "pool.connections_max=2", "--set", f"route.port={port}"]
    with Server("127.0.0.2", port, end_wait=0.1) as large, Server("127.0.0.3", port) as small:
        with Relay(*flags, cores="1") as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                for number in range(400):
                    client.sendmail("a@sender.test", ["b@[127.0.0.2]"], message(number))
                client.sendmail("a@sender.test", ["b@[127.0.0.3]"], message("small"))
            wait_until("the small site gets its mail", lambda: small.subjects, 12)
            assert len(large.subjects) < 390, "while the large one still has work"


def an_idle_connection_makes_room_for_a_site_that_has_none():
    port = free_port()
    flags = ["--set", "pool.connections_max=1", "--set", f"route.port={port}"]
    flags += ["--set", "pool.idle=60s"]
    with Server("127.0.0.2", port) as one, Server("127.0.0.3", port) as other:
        with Relay(*flags, cores="1") as relay:
            for number in range(3):
                send(relay.port, message(number), to=("b@[127.0.0.2]",))
                wait_until("one", lambda: len(one.subjects) == number + 1, 5)
                send(relay.port, message(number), to=("b@[127.0.0.3]",))
                wait_until("the other", lambda: len(other.subjects) == number + 1, 5)


def a_full_queue_refuses_mail_until_there_is_room():
    flags = ["--set", "core_default.queue_recipients_max=3"]
    with Relay(*flags, smart_host=(port := free_port()), cores="1") as relay:
        for number in range(3):
            send(relay.port, message(number))
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            try:
                client.sendmail("a@sender.test", ["b@sink.test"], message("more"))
                raise AssertionError("taken")
            except smtplib.SMTPDataError as refusal:
                assert refusal.smtp_code == 452 and b"4.3.1" in refusal.smtp_error, refusal
            with Server(port=port) as server:
                wait_until("room", lambda: len(server.subjects) == 3)
                relay.wait_empty()
                client.rset()
                client.sendmail("a@sender.test", ["b@sink.test"], message("more"))


def a_shard_that_cannot_start_ends_the_relay_with_its_error():
    with Relay() as relay:
        assert relay.stop() == 0
        bad = relay.spool / "shard-1"
        shutil.rmtree(bad)
        bad.mkdir()
        (bad / "00000001.seg").mkdir()
        done = subprocess.run([BINARY, "serve", *relay.flags], capture_output=True, text=True,
                              timeout=20, check=False)
        text = done.stderr + done.stdout
        assert done.returncode != 0 and "shard-1" in text, text
        assert "panicked" not in text, text


TESTS = [
    a_full_queue_refuses_mail_until_there_is_room,
    a_shard_that_cannot_start_ends_the_relay_with_its_error,
    an_outcome_for_another_shard_is_not_lost_at_the_stop,
    a_client_in_its_content_does_not_abort_deliveries,
    a_slow_greeting_does_not_delay_the_stop,
    a_server_that_accepts_few_connections_is_not_hammered,
    a_server_that_ends_while_connections_are_idle_is_noticed_at_once,
    a_host_that_sends_421_to_mail_gets_few_connections_and_its_site_no_back_off,
    at_the_limit_of_connections_sites_take_turns,
    an_idle_connection_makes_room_for_a_site_that_has_none,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
