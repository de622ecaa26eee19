"""Users with tokens: OAUTHBEARER and XOAUTH2 with an introspection server (RFC 7662) in Python."""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import smtplib
import socket
import ssl
import tempfile
import threading
import time
import urllib.parse

from encryption import certificates, flags, trusting, written
from harness import Relay, Sink, free_port, main, wait_until
from users import refusal, user

SECRET = "s3cret:/+ ü"


class Server:
    """Answers for tokens from `known`: an answer, or a function that misbehaves with the handler."""

    def __init__(self, context=None, port=None):
        self.known, self.asked, self.open, self.context = {}, [], [], context
        self.port = port or free_port()

    def __enter__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def setup(self):
                server.open.append(self.request)
                super().setup()

            def do_POST(self):
                with contextlib.suppress(OSError):
                    server.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.http.daemon_threads = True
        if self.context:
            self.http.socket = self.context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, request):
        form = urllib.parse.parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded", request.headers
        scheme, both = request.headers["Authorization"].split(" ")
        who = [urllib.parse.unquote_plus(part) for part in base64.b64decode(both).decode().split(":")]
        assert form["token_type_hint"] == ["access_token"], form
        if (scheme, who) != ("Basic", ["ringpost", SECRET]):
            reply(request, 401, b'{"error": "invalid_client"}')
            return
        token = form["token"][0]
        self.asked.append(token)
        said = self.known.get(token, {"active": False})
        if callable(said):
            said(request)
        else:
            reply(request, 200, json.dumps(said).encode())


def reply(request, status, body, **headers):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def good(name="joe", **more):
    return {"active": True, "username": name, "scope": "openid mail.send", "exp": int(time.time()) + 300,
            "token_type": "Bearer", **more}


@contextlib.contextmanager
def relay_with_tokens(*words, sink=None, tls=True, users=False, text=""):
    """A relay that accepts tokens, on a submission listener: (relay, root, server)."""
    with tempfile.TemporaryDirectory() as folder, certificates("relay.test", "127.0.0.1") as (made, root):
        secret = pathlib.Path(folder) / "secret"
        secret.write_text(SECRET + "\n")
        secret.chmod(0o600)
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*made["127.0.0.1"])
        relay = Relay(*flags(made["relay.test"]), "--set", "access.relay_networks=192.0.2.0/24",
                      "--set", "auth.failure_delay=0s", *words, smart_host=sink and sink.port)
        if users:
            relay.users = pathlib.Path(folder) / "users.toml"
            assert user(relay.users, "add", "joe", "--sender", "joe@a.test", password="pencil")[0] == 0
            relay.flags += ["--users", str(relay.users)]
        with Server(context) as server:
            del relay.flags[:2]
            url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}/introspect"
            written(relay, f"""
[[listener]]
address = "127.0.0.1:{relay.port}"
role = "submission"
[auth.tokens]
introspection_endpoint = "{url}"
client_id = "ringpost"
client_secret_file = "{secret}"
roots = "{root}"
timeout = "1s"
scope = "mail.send"
openid_configuration = "https://a.test/.well-known/openid-configuration"
{text}""")
            relay.secret = secret
            with relay:
                yield relay, root, server


def message(mechanism, token, name=None):
    if mechanism == "XOAUTH2":
        text = f"user={name}\x01auth=Bearer {token}\x01\x01"
    else:
        identity = f"a={name}" if name else ""
        text = f"n,{identity},\x01host=relay.test\x01port=587\x01auth=Bearer {token}\x01\x01"
    return base64.b64encode(text.encode()).decode()


@contextlib.contextmanager
def connected(relay, root):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client._host = "relay.test"
        client.starttls(context=trusting(root))
        client.ehlo("client.test")
        yield client


def told(relay, root, mechanism, token, name=None):
    """The final reply, and the content of the challenge before it."""
    with connected(relay, root) as client:
        code, text = client.docmd("AUTH", f"{mechanism} {message(mechanism, token, name)}")
        if code != 334:
            return code, text.decode(), None
        said = json.loads(base64.b64decode(text))
        code, text = client.docmd("AQ==" if mechanism == "OAUTHBEARER" else "")
        return code, text.decode(), said


def a_user_without_an_entry_logs_in_with_a_valid_token():
    with Sink() as sink, relay_with_tokens(sink=sink) as (relay, root, server):
        server.known["abc"] = good()
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo("client.test")
            assert not client.has_extn("auth"), "not in the clear"
            assert client.docmd("AUTH", f"XOAUTH2 {message('XOAUTH2', 'abc', 'joe')}")[0] == 538
        with connected(relay, root) as client:
            assert client.esmtp_features["auth"].split() == ["OAUTHBEARER", "XOAUTH2"], client.esmtp_features
        for mechanism, name in (("OAUTHBEARER", "joe"), ("OAUTHBEARER", None), ("XOAUTH2", "joe")):
            with connected(relay, root) as client:
                assert client.docmd("AUTH", f"{mechanism} {message(mechanism, 'abc', name)}")[0] == 235
                client.sendmail("any@a.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")
        sink.wait(3)
        assert {event["user"] for event in relay.wait_event("received", 3)} == {"joe"}
        assert server.asked == ["abc"], "asked once, believed then"
        assert b"abc" not in relay.log


def an_invalid_token_is_refused_with_the_reason():
    with relay_with_tokens("--set", "auth.failures_per_address=1000") as (relay, root, server):
        now = int(time.time())
        server.known.update({
            "old": good(exp=now - 1), "early": good(nbf=now + 60), "narrow": good(scope="openid"),
            "unnamed": {"active": True, "scope": "mail.send"}, "ann": good("ann"), "bound": good(cnf={"jkt": "x"}),
        })
        for token, words in (("unknown", "it is not active"), ("old", "it has expired"),
                             ("early", "it is not good yet"), ("narrow", "it lacks the scope"),
                             ("unnamed", "it names no user"), ("ann", "it is another user's"),
                             ("bound", "it is bound to a key, and AUTH cannot show keys")):
            for mechanism in ("OAUTHBEARER", "XOAUTH2"):
                code, text, said = told(relay, root, mechanism, token, "joe")
                assert (code, text) == (535, f"5.7.8 Token rejected: {words}"), (token, code, text)
                assert said["scope"] == "mail.send", said
                if mechanism == "OAUTHBEARER":
                    status = "insufficient_scope" if token == "narrow" else "invalid_token"
                    assert said["status"] == status and said["openid-configuration"].startswith("https://"), said
                else:
                    assert (said["status"], said["schemes"]) == ("401", "bearer"), said
        events = relay.wait_event("rejected", 14)
        # No user of that name is in a users file, so the name is not logged: it may be a password.
        assert {(event["stage"], event["code"]) for event in events} == {("auth", 535)}, events
        (logged,) = {event["user"] for event in events}
        assert re.fullmatch(r"\(unknown [0-9a-f]{8}\)", logged), events


def wrong_tokens_are_counted():
    with relay_with_tokens("--set", "auth.failures_per_address=3") as (relay, root, server):
        server.known["abc"] = good()
        codes = [told(relay, root, "OAUTHBEARER", f"guess{number}", "joe")[0] for number in range(5)]
        assert codes == [535, 535, 535, 454, 454], codes
        assert told(relay, root, "OAUTHBEARER", "abc", "joe")[0] == 454, "the right one too"
        assert server.asked == ["guess0", "guess1", "guess2"], server.asked


def without_an_answer_clients_get_454_and_no_failure_is_counted():
    def slow(request):
        time.sleep(3)
        reply(request, 200, json.dumps(good()).encode())

    def elsewhere(request):
        reply(request, 302, b"", Location=f"http://127.0.0.1:{request.server.server_port}/other")

    def nothing(request):
        request.connection.shutdown(socket.SHUT_RDWR)
    troubles = {
        "slow": slow, "broken": lambda request: reply(request, 500, b"oh"), "elsewhere": elsewhere, "nothing": nothing,
        "garbage": lambda request: reply(request, 200, b"<html>"),
        "list": lambda request: reply(request, 200, b"[true]"),
        "huge": lambda request: reply(request, 200, json.dumps(good(x="y" * 100_000)).encode()),
        "odd": {"active": "yes", "username": "joe"},
        "stranger": lambda request: reply(request, 401, b"{}"),
    }
    with relay_with_tokens("--set", "auth.failures_per_address=2") as (relay, root, server):
        server.known.update(troubles, abc=good())
        for token in troubles:
            began = time.monotonic()
            assert told(relay, root, "XOAUTH2", token, "joe") == \
                (454, "4.7.0 Temporary authentication failure; try again later", None), token
            assert time.monotonic() - began < 2.5, token
        assert told(relay, root, "XOAUTH2", "abc", "joe")[0] == 235, "nothing was counted"
        lines = [line for line in relay.log.splitlines() if b"tokens cannot be checked" in line]
        assert len(lines) == 1, lines
        assert sorted(set(server.asked)) == sorted([*troubles, "abc"]), server.asked


def a_server_that_was_down_is_asked_again():
    with relay_with_tokens(tls=False, text='ttl_max = "0s"') as (relay, root, server):
        server.known["abc"] = good()
        for _ in range(2):
            assert told(relay, root, "OAUTHBEARER", "abc")[0] == 235
        assert server.asked == ["abc", "abc"], "not accepted without asking"
        server.__exit__()
        assert told(relay, root, "OAUTHBEARER", "abc")[0] == 454
        with Server(port=server.port) as again:
            again.known["abc"] = good()
            assert told(relay, root, "OAUTHBEARER", "abc")[0] == 235
        with Server(port=server.port):
            assert told(relay, root, "OAUTHBEARER", "abc")[0] == 535, "taken back"


def a_server_with_an_unknown_certificate_gets_no_token():
    with certificates("127.0.0.1") as (made, _), relay_with_tokens() as (relay, root, server):
        server.__exit__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made["127.0.0.1"])
        with Server(context, server.port) as other:
            other.known["abc"] = good()
            assert told(relay, root, "OAUTHBEARER", "abc")[0] == 454
            assert not other.asked
        assert b"certificate" in relay.log, relay.log


def many_tokens_at_once_wait_and_passwords_do_not():
    """A server that does not answer blocks only users with tokens."""
    def silent(request):
        time.sleep(4)
    with relay_with_tokens("--set", "auth.failures_per_address=1000", users=True) as (relay, root, server):
        server.known.update({f"t{number}": silent for number in range(40)})
        codes = []

        def client(number):
            codes.append(told(relay, root, "OAUTHBEARER", f"t{number}", "joe")[0])
        clients = [threading.Thread(target=client, args=(number,)) for number in range(40)]
        for one in clients:
            one.start()
        wait_until("the questions", lambda: len(server.asked) >= 4)
        began = time.monotonic()
        with connected(relay, root) as known:
            assert known.login("joe", "pencil")[0] == 235
        assert time.monotonic() - began < 3, "a password is checked meanwhile"
        for one in clients:
            one.join(20)
        assert codes == [454] * 40, codes
        assert len(server.asked) < 20, "requests that have waited too long are not sent"


def an_entry_in_the_users_file_applies_to_tokens_too():
    with Sink() as sink, relay_with_tokens(sink=sink, users=True) as (relay, root, server):
        server.known.update(abc=good(), xyz=good("ann"))
        with connected(relay, root) as client:
            offered = client.esmtp_features["auth"].split()
            assert offered == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"], offered
            client.docmd("AUTH", f"OAUTHBEARER {message('OAUTHBEARER', 'abc', 'joe')}")

            def send(sender):
                client.sendmail(sender, ["b@sink.test"], b"From: joe@a.test\r\nSubject: x\r\n\r\nbody\r\n")
            send("joe@a.test")
            assert refusal(lambda: send("ann@a.test")) == (550, b"5.7.1 Sender address rejected: not permitted for this user")
        with connected(relay, root) as known, connected(relay, root) as guest:
            assert known.login("joe", "pencil")[0] == 235
            assert guest.docmd("AUTH", f"XOAUTH2 {message('XOAUTH2', 'xyz', 'ann')}")[0] == 235
            assert user(relay.users, "remove", "joe")[0] == 0
            relay.process.send_signal(1)
            wait_until("the removal", lambda: b"users read again" in relay.log)
            assert known.mail("joe@a.test") == (550, b"5.7.1 User account no longer exists"), "a token does not override a removed account"
            assert guest.mail("ann@a.test")[0] == 250
        sink.wait(1)


def a_client_secret_is_reloaded():
    with relay_with_tokens(text='ttl_max = "0s"') as (relay, root, server):
        server.known["abc"] = good()
        assert told(relay, root, "OAUTHBEARER", "abc")[0] == 235
        relay.secret.write_text("old\n")
        relay.process.send_signal(1)
        wait_until("the new secret", lambda: b"the files of auth.tokens read again" in relay.log)
        assert told(relay, root, "OAUTHBEARER", "abc")[0] == 454, "the server refuses our credentials"
        relay.secret.write_text("")
        relay.process.send_signal(1)
        wait_until("the refusal", lambda: b"the files of auth.tokens not read again" in relay.log)
        code, _, errors = relay.command("check")
        assert code == 2 and "one line with the secret" in errors, errors


def deliveries_log_in_at_the_smart_host_with_a_token():
    with Sink() as sink, relay_with_tokens(sink=sink, text='ttl_max = "0s"') as (behind, _, server), \
            tempfile.TemporaryDirectory() as folder:
        server.known["abc"] = good()
        token, file = pathlib.Path(folder) / "token", pathlib.Path(folder) / "smarthost.toml"
        for path, text in ((token, "old\n"), (file, f'user = "joe"\ntoken_file = "{token}"\n')):
            path.touch(0o600)
            path.write_text(text)

        def post(before):
            with smtplib.SMTP("127.0.0.1", before.port, timeout=20) as client:
                client.sendmail("a@sender.test", ["b@sink.test"], b"From: a@sender.test\r\n\r\nbody\r\n")
        words = ["--set", f"route.auth={file}", "--set", "route.tls=must"]
        with Relay(*words, smart_host=behind.port) as before:
            post(before)
            event = before.wait_event("deferred")[0]
            assert (event["stage"], event["code"], event["status"]) == ("auth", 535, "5.7.8"), event
            assert "Token rejected: it is not active" in event["text"], event
            token.write_text("abc\n")
            before.process.send_signal(1)
            wait_until("the new token", lambda: b"passwords for next hops read again" in before.log)
            assert b"with ESMTPSA" in sink.wait(1)[0][2]
            assert behind.wait_event("received")[0]["user"] == "joe"


TESTS = (
    a_user_without_an_entry_logs_in_with_a_valid_token,
    an_invalid_token_is_refused_with_the_reason,
    wrong_tokens_are_counted,
    without_an_answer_clients_get_454_and_no_failure_is_counted,
    a_server_that_was_down_is_asked_again,
    a_server_with_an_unknown_certificate_gets_no_token,
    many_tokens_at_once_wait_and_passwords_do_not,
    an_entry_in_the_users_file_applies_to_tokens_too,
    a_client_secret_is_reloaded,
    deliveries_log_in_at_the_smart_host_with_a_token,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
