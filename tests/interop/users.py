"""Users at the command line, and real clients that log in."""

import base64
import contextlib
import hashlib
import hmac
import os
import pathlib
import pty
import smtplib
import subprocess
import tempfile
import threading
import time

from encryption import certificates, flags, trusting
from harness import BINARY, Relay, Sink, main, need, wait_until


def user(path, *words, password=None):
    """Runs `ringpost user`: (exit code, output, errors)."""
    done = subprocess.run([BINARY, "user", *words, "--users", str(path)], input=password, capture_output=True,
                          text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def users_are_added_listed_verified_and_removed():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "users.toml"
        assert user(path, "add", "joe", password="pencil\n") == (0, "", "")
        assert path.stat().st_mode & 0o777 == 0o600
        assert user(path, "add", "ann", "--sender", "@example.com", password="eraser")[0] == 0
        code, _, errors = user(path, "add", "joe", password="other\n")
        assert code == 1 and "there already" in errors, errors
        code, output, _ = user(path, "list")
        assert code == 0 and output == ("ann\tpassword,scram\t@example.com\n"
                                        "joe\tpassword,scram\tany sender\n"), output
        assert user(path, "verify", "joe", password="pencil\n")[0] == 0
        assert user(path, "verify", "joe", password="Pencil\n")[0] == 1
        assert user(path, "remove", "joe")[0] == 0
        assert user(path, "verify", "joe", password="pencil\n")[0] == 1
        assert "pencil" not in path.read_text() and "eraser" not in path.read_text()
        code, _, errors = user(path, "add", "empty", password="")
        assert code == 1 and "no password on standard input" in errors, errors


def a_terminal_is_asked_twice_and_shows_nothing():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "users.toml"

        def add(*answers):
            pid, terminal = pty.fork()
            if pid == 0:
                os.execv(BINARY, [BINARY, "user", "add", "joe", "--users", str(path)])
            seen = b""
            for answer in answers:
                while not seen.endswith((b"Password: ", b"Again: ")):
                    seen += os.read(terminal, 1000)
                seen += b"|"
                os.write(terminal, answer + b"\n")
            try:
                while more := os.read(terminal, 1000):
                    seen += more
            except OSError:
                pass
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

        code, seen = add(b"pencil", b"pencel")
        assert code == 1 and b"not the same" in seen and not path.exists(), seen
        code, seen = add(b"pencil", b"pencil")
        assert code == 0 and b"pencil" not in seen, seen
        assert user(path, "verify", "joe", password="pencil\n")[0] == 0


@contextlib.contextmanager
def relay_with_users(*words, sink=None, **users):
    """A relay with a certificate and these users, which relays for nobody else: (relay, root)."""
    with tempfile.TemporaryDirectory() as folder, certificates("relay.test") as (made, root):
        path = pathlib.Path(folder) / "users.toml"
        for name, password in (users or {"joe": "pencil"}).items():
            assert user(path, "add", name, password=password)[0] == 0
        relay = Relay(*flags(made["relay.test"]), "--users", str(path), "--set", "access.relay_networks=192.0.2.0/24",
                      "--set", "auth.failure_delay=0s", *words, smart_host=sink and sink.port)
        relay.users = path
        with relay:
            yield relay, root


@contextlib.contextmanager
def secured(relay, root):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client._host = "relay.test"
        client.starttls(context=trusting(root))
        client.ehlo("client.test")
        yield client


def smtplib_logs_in_and_the_trace_and_the_events_say_so():
    with Sink() as sink, relay_with_users(sink=sink) as (relay, root):
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo("client.test")
            assert not client.has_extn("auth"), "not in the clear"
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=") == \
                (538, b"5.7.11 Encryption required; say STARTTLS first")
        for mechanism in ("PLAIN", "LOGIN"):
            with secured(relay, root) as client:
                offered = client.esmtp_features["auth"].split()
                assert offered == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"], offered
                client.esmtp_features["auth"] = mechanism
                assert client.login("joe", "pencil")[0] == 235
                client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")
        assert all(b"with ESMTPSA (TLSv1.3) id" in content for _, _, content in sink.wait(2))
        events = relay.wait_event("received", 2)
        assert {event["user"] for event in events} == {"joe"}, events
        with secured(relay, root) as client:
            try:
                client.login("joe", "Pencil")
                raise AssertionError("a wrong password was taken")
            except smtplib.SMTPAuthenticationError as error:
                assert error.smtp_code == 535 and b"5.7.8" in error.smtp_error, error
            client.mail("a@sender.test")
            assert client.rcpt("b@sink.test")[0] == 550, "still a stranger"
        event = relay.wait_event("rejected", 1)[0]
        assert (event["stage"], event["code"], event["user"]) == ("auth", 535, "joe"), event


def swaks_curl_and_msmtp_log_in():
    need("swaks", "curl", "msmtp")
    with Sink() as sink, relay_with_users(sink=sink) as (relay, root):
        letter = pathlib.Path(relay.own_folder) / "letter.eml"
        letter.write_bytes(b"Subject: x\r\n\r\nbody\r\n")
        port = str(relay.port)
        swaks = ["swaks", "-s", f"127.0.0.1:{port}", "-tls", "-f", "a@sender.test", "-t", "b@sink.test",
                 "-au", "joe", "-ap", "pencil"]
        curl = ["curl", "-sv", "--ssl-reqd", "--cacert", root, "--resolve", f"relay.test:{port}:127.0.0.1",
                f"smtp://relay.test:{port}/client.test", "--mail-from", "a@sender.test", "--mail-rcpt",
                "b@sink.test", "-T", str(letter), "--user", "joe:pencil"]
        msmtp = ["msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={port}", "--tls=on", "--tls-starttls=on",
                 "--tls-certcheck=off", "--from=a@sender.test", "--user=joe", "--passwordeval=echo pencil"]
        commands = [swaks + ["-a", "PLAIN"], swaks + ["-a", "LOGIN"],
                    curl + ["--login-options", "AUTH=PLAIN"], curl + ["--login-options", "AUTH=LOGIN"],
                    msmtp + ["--auth=scram-sha-256", "b@sink.test"], msmtp + ["--auth=plain", "b@sink.test"],
                    msmtp + ["--auth=login", "b@sink.test"]]
        for command in commands:
            done = subprocess.run(command, input="Subject: x\n\nbody\n", capture_output=True, text=True,
                                  timeout=60, check=False)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert all(b"with ESMTPSA" in content for _, _, content in sink.wait(len(commands)))


def scram_answer(first_bare, challenge, header, password):
    """The client's final message (RFC 5802 3), by Python's own hashes."""
    nonce, salt, rounds = (part[2:] for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    unproven = f"c={base64.b64encode(header).decode()},r={nonce}"
    said = f"{first_bare},{challenge},{unproven}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature))
    server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
    return f"{unproven},p={base64.b64encode(proof).decode()}", f"v={base64.b64encode(server).decode()}"


def scram_plus_is_tied_to_the_connection_that_openssl_sees():
    """SCRAM-SHA-256-PLUS with tls-exporter (RFC 9266); the exporter is that of OpenSSL."""
    need("openssl")
    with relay_with_users() as (relay, root):
        def try_it(change, password="pencil"):
            client = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", "-starttls", "smtp", "-CAfile", root,
                 "-keymatexport", "EXPORTER-Channel-Binding", "-keymatexportlen", "32", "-crlf"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
            threading.Timer(20, client.kill).start()

            def until(begin):
                while line := client.stdout.readline():
                    if line.strip().startswith(begin):
                        return line.strip()
                raise AssertionError(f"no {begin}")

            channel = change(bytes.fromhex(until("Keying material:").split()[2]))
            client.stdin.write("EHLO client.test\n")
            until("250 ENHANCEDSTATUSCODES")
            header, bare = b"p=tls-exporter,,", "n=joe,r=fyko+d2lbbFgONRv9qkxdawL"
            first = base64.b64encode(header + bare.encode()).decode()
            client.stdin.write(f"AUTH SCRAM-SHA-256-PLUS {first}\n")
            challenge = base64.b64decode(until("334 ")[4:]).decode()
            answer, expected = scram_answer(bare, challenge, header + channel, password)
            client.stdin.write(base64.b64encode(answer.encode()).decode() + "\n")
            reply = until(("334 ", "535 "))
            if reply.startswith("334 "):
                assert base64.b64decode(reply[4:]).decode() == expected, "the server knows it, too"
                client.stdin.write("\n")
                reply = until("235 ")
            client.kill()
            client.wait(10)
            return reply[:9]
        assert try_it(lambda channel: channel) == "235 2.7.0"
        assert try_it(lambda channel: channel, "Pencil") == "535 5.7.8"
        assert try_it(lambda channel: channel[::-1]) == "535 5.7.8", "another connection"


def who_guesses_is_made_to_wait():
    with relay_with_users("--set", "auth.failures_per_address=3", "--set", "auth.failure_window=3s") as (relay, root):
        with secured(relay, root) as client:
            codes = [client.docmd("AUTH", "PLAIN AGpvZQB3cm9uZw==")[0] for _ in range(5)]
            assert codes == [535, 535, 535, 454, 454], codes
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=")[0] == 454, "the right one, too"
        time.sleep(3)
        with secured(relay, root) as client:
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=")[0] == 235


def a_refusal_comes_late():
    with relay_with_users("--set", "auth.failure_delay=1s") as (relay, root):
        with secured(relay, root) as client:
            began = time.monotonic()
            assert client.docmd("AUTH", "PLAIN AGpvZQB3cm9uZw==")[0] == 535
            assert time.monotonic() - began >= 1
            began = time.monotonic()
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=")[0] == 235
            assert time.monotonic() - began < 1


def users_are_read_again_at_sighup():
    with relay_with_users() as (relay, root):
        def may(name, password):
            with secured(relay, root) as client:
                with contextlib.suppress(smtplib.SMTPAuthenticationError):
                    return client.login(name, password)[0] == 235
                return False
        assert may("joe", "pencil") and not may("ann", "eraser")
        assert user(relay.users, "add", "ann", password="eraser")[0] == 0
        assert user(relay.users, "add", "joe", "--replace", password="newer")[0] == 0
        relay.process.send_signal(1)
        wait_until("the new users", lambda: b"users read again" in relay.log)
        assert may("ann", "eraser") and may("joe", "newer") and not may("joe", "pencil")
        relay.users.write_text("nonsense")
        relay.process.send_signal(1)
        wait_until("the refusal", lambda: b"users not read again" in relay.log)
        assert may("ann", "eraser")


TESTS = (
    users_are_added_listed_verified_and_removed,
    a_terminal_is_asked_twice_and_shows_nothing,
    smtplib_logs_in_and_the_trace_and_the_events_say_so,
    swaks_curl_and_msmtp_log_in,
    scram_plus_is_tied_to_the_connection_that_openssl_sees,
    who_guesses_is_made_to_wait,
    a_refusal_comes_late,
    users_are_read_again_at_sighup,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
