"""Content that is sent together with its envelope (BDAT, RFC 3030), and hosts that do not support it."""

import socketserver
import threading

from clients import send
from harness import Relay, main, without_trace

MESSAGE = b"Subject: x\r\n\r\n.one dot\r\n..two\r\n.\r\nno dot\r\n"


class ChunkHost:
    """A server that offers CHUNKING. `manner`: "takes" chunks; "does not know" BDAT; "hangs up"."""

    def __init__(self, manner):
        self.manner = manner
        self.commands, self.contents, self.reads = [], [], []
        host = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                host.serve(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, peer):
        def say(text):
            peer.wfile.write(text.encode() + b"\r\n")

        say("220 chunks.test")
        while line := peer.rfile.readline():
            words = line.decode().split()
            verb = words[0].upper()
            self.commands.append(line.decode().strip())
            if verb == "EHLO":
                say("250-chunks.test\r\n250-PIPELINING\r\n250 CHUNKING")
            elif verb == "BDAT":
                if self.manner == "hangs up":
                    return
                content = peer.rfile.read(int(words[1]))
                if self.manner == "takes":
                    self.contents.append(content)
                    say("250 2.0.0 taken")
                else:
                    say("502 5.5.1 what is that?")
            elif verb == "DATA":
                say("354 go on")
                lines = iter(peer.rfile.readline, b".\r\n")
                self.contents.append(b"".join(one.removeprefix(b".") for one in lines))
                say("250 2.0.0 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")

    def verbs(self):
        return [command.split()[0] for command in self.commands]


def content_goes_with_the_envelope_where_that_is_offered():
    """One round trip for a message; its dots arrive unchanged."""
    with ChunkHost("takes") as host, Relay(smart_host=host.port) as relay:
        send(relay.port, MESSAGE)
        relay.wait_event("delivered")
        assert [without_trace(one) for one in host.contents] == [MESSAGE]
        assert host.verbs()[:4] == ["EHLO", "MAIL", "RCPT", "BDAT"], host.commands
        relay.wait_empty()


def a_host_that_offers_chunking_without_support_gets_data_at_once():
    """RFC 5321 4.2.2: 502 is not about the message, so it is neither bounced nor delayed."""
    one = ["--set", "pool.connections_per_site=1"]
    with ChunkHost("does not know") as host, Relay(*one, smart_host=host.port) as relay:
        send(relay.port, MESSAGE)
        send(relay.port, MESSAGE)
        relay.wait_event("delivered", 2)
        assert [without_trace(one) for one in host.contents] == [MESSAGE, MESSAGE]
        assert not relay.events("deferred") and not relay.events("bounced")
        expected = ["EHLO", "MAIL", "RCPT", "BDAT", "RSET", "MAIL", "RCPT", "DATA"]
        assert host.verbs()[:8] == expected, host.commands


def a_host_that_hangs_up_after_bdat_gets_data_at_the_next_attempt():
    with ChunkHost("hangs up") as host, Relay(smart_host=host.port) as relay:
        send(relay.port, MESSAGE)
        deferred = relay.wait_event("deferred")[0]
        assert "may have been delivered" in deferred["text"], deferred
        relay.wait_event("delivered")
        assert [without_trace(one) for one in host.contents] == [MESSAGE]


def chunking_can_be_disabled():
    with ChunkHost("takes") as host:
        with Relay("--set", "route.chunking=false", smart_host=host.port) as relay:
            send(relay.port, MESSAGE)
            relay.wait_event("delivered")
            assert [without_trace(one) for one in host.contents] == [MESSAGE]
            assert "BDAT" not in host.verbs() and "DATA" in host.verbs(), host.commands


TESTS = [
    content_goes_with_the_envelope_where_that_is_offered,
    a_host_that_offers_chunking_without_support_gets_data_at_once,
    a_host_that_hangs_up_after_bdat_gets_data_at_the_next_attempt,
    chunking_can_be_disabled,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
