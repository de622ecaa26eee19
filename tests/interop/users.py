"""Users at the command line, and real clients that log in."""

import base64
import contextlib
import email
import email.utils
import hashlib
import hmac
import json
import os
import pathlib
import pty
import re
import smtplib
import socket
import ssl
import subprocess
import tempfile
import termios
import threading
import time

from aiosmtpd.smtp import AuthResult

from encryption import certificates, flags, trusting, written
from harness import BINARY, Relay, Sink, free_port, main, need, wait_until, without_trace


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
        assert code == 1 and "exists already" in errors, errors
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


def files_with_secrets_that_others_may_read_are_refused():
    with relay_with_users() as (relay, _), password_file("joe", "pencil") as password:
        key = relay.flags[relay.flags.index("--tls-key") + 1]
        for file, words in ((str(relay.users), []), (key, []), (password, ["--set", f"route.auth={password}"])):
            words = [*words, "--smart-host", "a.test"] if words else words
            for mode, code in (("640", 0), ("644", 2), ("660", 2), ("600", 0)):
                os.chmod(file, int(mode, 8))
                said = relay.command("check", *words)
                assert said[0] == code, (file, mode, said)
                assert not code or f"{file}: its mode is {mode}, so others could" in said[2], said
        os.chmod(relay.users, 0o644)
        relay.process.send_signal(1)
        wait_until("the refusal", lambda: b"users not read again" in relay.log)
        assert relay.stop() == 0
        done = subprocess.run([BINARY, "serve", *relay.flags], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1 and "its mode is 644" in done.stderr, done


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
                # Asked first, then hidden: no person types as fast.
                wait_until("echo is off", lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO)
                seen += b"|"
                os.write(terminal, answer + b"\n")
            try:
                while more := os.read(terminal, 1000):
                    seen += more
            except OSError:
                pass
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

        code, seen = add(b"pencil", b"pencel")
        assert code == 1 and b"do not match" in seen and not path.exists(), seen
        code, seen = add(b"pencil", b"pencil")
        assert code == 0 and b"pencil" not in seen, seen
        assert user(path, "verify", "joe", password="pencil\n")[0] == 0


@contextlib.contextmanager
def relay_with_users(*words, sink=None, text="", host="relay.test", **users):
    """A relay with a certificate for `host` and these users, which relays for no other client: (relay, root). With
    `text` also listeners of its own: PORT is the relay's."""
    with tempfile.TemporaryDirectory() as folder, certificates(host) as (made, root):
        path = pathlib.Path(folder) / "users.toml"
        for name, password in (users or {"joe": "pencil"}).items():
            assert user(path, "add", name, password=password)[0] == 0
        relay = Relay(*flags(made[host]), "--users", str(path), "--set", "access.relay_networks=192.0.2.0/24",
                      "--set", "auth.failure_delay=0s", *words, smart_host=sink and sink.port)
        relay.users = path
        if text:
            del relay.flags[:2]
            written(relay, text.replace("PORT", str(relay.port)))
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
                (538, b"5.7.11 Encryption required for requested authentication mechanism")
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
        # A password typed as a user name is in no event and in no log line.
        with secured(relay, root) as client:
            code, told = refusal(lambda: client.login("sesame-open", "joe"))
            assert (code, told) == (535, b"5.7.8 Authentication credentials invalid"), (code, told)
        def at_auth():
            found = [event for event in relay.events("rejected") if event["stage"] == "auth"]
            return found if len(found) >= 2 else None
        # Those of two shards come in any order.
        event = next(one for one in wait_until("both refused logins", at_auth) if one["user"] != "joe")
        assert re.fullmatch(r"\(unknown [0-9a-f]{8}\)", event["user"]), event
        assert b"sesame" not in relay.log and "sesame" not in json.dumps(relay.events())


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


def scram_plus_is_tied_to_the_certificate_under_tls_1_2():
    """tls-server-end-point (RFC 5929 4): Python sees the certificate. No session is taken up again that began with
    another."""
    def hash_of(file):
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pathlib.Path(file).read_text())).digest()

    def log_in(relay, root, seen, earlier=None, kind="tls-server-end-point", version=ssl.TLSVersion.TLSv1_2,
               reused=False):
        context, session = earlier or (trusting(root), None)
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", relay.port), 20) as plain:
            answers = plain.makefile("rb")

            def ask(line, stream):
                stream.write(line.encode() + b"\r\n")
                stream.flush()
                while (reply := stream.readline())[3:4] == b"-":
                    offers.append(reply)
                return reply.decode().strip()
            offers = []
            answers.readline()
            out = plain.makefile("rwb")
            ask("EHLO client.test", out)
            assert ask("STARTTLS", out).startswith("220")
            with context.wrap_socket(plain, server_hostname="relay.test", session=session) as secured:
                assert secured.session_reused == reused
                stream = secured.makefile("rwb")
                ask("EHLO client.test", stream)
                assert b"SCRAM-SHA-256-PLUS" in b"".join(offers), offers
                header, bare = f"p={kind},,".encode(), "n=joe,r=fyko"
                reply = ask(f"AUTH SCRAM-SHA-256-PLUS {base64.b64encode(header + bare.encode()).decode()}", stream)
                if reply.startswith("334 "):
                    challenge = base64.b64decode(reply[4:]).decode()
                    answer, _ = scram_answer(bare, challenge, header + seen, "pencil")
                    reply = ask(base64.b64encode(answer.encode()).decode(), stream)
                if reply.startswith("334 "):
                    reply = ask("", stream)
                return reply, (context, secured.session)
    with relay_with_users() as (relay, root), certificates("relay.test") as (made, other_root):
        files = [relay.flags[relay.flags.index(flag) + 1] for flag in ("--tls-cert", "--tls-key")]
        first, second = hash_of(files[0]), hash_of(made["relay.test"][0])
        reply, earlier = log_in(relay, root, first)
        assert reply.startswith("235"), reply
        reply, earlier = log_in(relay, root, first, earlier, reused=True)
        assert reply.startswith("235"), reply
        assert log_in(relay, root, first, version=ssl.TLSVersion.TLSv1_3)[0].startswith("235")
        refused = "535 5.7.8 Channel binding mismatch (possible interception); server supports: tls-server-end-point"
        assert log_in(relay, root, second)[0] == refused
        assert log_in(relay, root, first, kind="tls-exporter")[0] == refused
        assert log_in(relay, root, first, kind="tls-unique")[0] == refused
        for file, other in zip(files, made["relay.test"]):
            pathlib.Path(file).write_bytes(pathlib.Path(other).read_bytes())
        relay.process.send_signal(1)
        wait_until("the new certificate", lambda: b"certificates read again" in relay.log)
        context, session = earlier
        context.load_verify_locations(other_root)
        assert log_in(relay, root, second, (context, session), reused=False)[0].startswith("235"), "begun anew"
        assert log_in(relay, other_root, second)[0].startswith("235")
        assert log_in(relay, other_root, first)[0] == refused


def names_of_nobody_are_answered_the_same_after_a_restart():
    def challenge(relay, root, name):
        with secured(relay, root) as client:
            first = base64.b64encode(f"n,,n={name},r=abc".encode()).decode()
            code, text = client.docmd("AUTH", f"SCRAM-SHA-256 {first}")
            assert code == 334, (code, text)
            assert client.docmd("*")[0] == 501
            return base64.b64decode(text).decode().split(",")[1:]
    with relay_with_users() as (relay, root):
        before = [challenge(relay, root, name) for name in ("joe", "unknown")]
        assert before[0] != before[1] and before[0][1] == before[1][1] == "i=100000", before
        assert user(relay.users, "add", "ann", password="eraser")[0] == 0
        relay.restart()
        assert [challenge(relay, root, name) for name in ("joe", "unknown")] == before


def who_guesses_is_made_to_wait():
    with relay_with_users("--set", "auth.failures_per_address=3", "--set", "auth.failure_window=3s") as (relay, root):
        with secured(relay, root) as client:
            codes = [client.docmd("AUTH", "PLAIN AGpvZQB3cm9uZw==")[0] for _ in range(5)]
            assert codes == [535, 535, 535, 454, 454], codes
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=")[0] == 454, "the right one, too"
        time.sleep(3)
        with secured(relay, root) as client:
            assert client.docmd("AUTH", "PLAIN AGpvZQBwZW5jaWw=")[0] == 235


def guesses_at_once_are_not_more_than_guesses_one_by_one():
    def many(relay, root, message):
        """The codes of 24 clients that say it at the same time."""
        codes, together = [], threading.Barrier(24)

        def client():
            with secured(relay, root) as one:
                together.wait(30)
                codes.append(one.docmd("AUTH", f"PLAIN {message}")[0])
        clients = [threading.Thread(target=client) for _ in range(24)]
        for one in clients:
            one.start()
        for one in clients:
            one.join(60)
        return sorted(codes)
    limits = ["--set", "auth.failures_per_address=3", "--set", "auth.failure_delay=0s"]
    with relay_with_users(*limits) as (relay, root):
        assert many(relay, root, "AGpvZQBwZW5jaWw=") == [235] * 24, "who is right takes turns"
        assert many(relay, root, "AGpvZQB3cm9uZw==") == [454] * 21 + [535] * 3


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


SUBMISSION = '[[listener]]\naddress = "127.0.0.1:PORT"\nrole = "submission"\n'


def refusal(action):
    """The reply that smtplib was refused with."""
    try:
        action()
    except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as error:
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return list(error.recipients.values())[0]
        return error.smtp_code, error.smtp_error
    raise AssertionError("it was taken")


def submission_demands_a_user_and_completes_his_mail():
    plain = free_port()
    text = SUBMISSION + f'[[listener]]\naddress = "127.0.0.1:{plain}"\n'
    with Sink() as sink, relay_with_users("--set", "access.relay_networks=127.0.0.0/8", sink=sink,
                                          text=text) as (relay, root):
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo("client.test")
            assert client.mail("a@sender.test") == (530, b"5.7.0 Must issue a STARTTLS command first")
        with secured(relay, root) as client:
            assert client.mail("a@sender.test") == (530, b"5.7.0 Authentication required")
            client.login("joe", "pencil")
            for content in (b"Subject: x\r\n\r\nbody\r\n",
                            b"Message-ID: <1@a>\r\ndate: Mon, 23 Nov 2026 18:36:59 +0000\r\n\r\nDate: x\r\n"):
                client.sendmail("a@sender.test", ["b@sink.test"], content)
        with smtplib.SMTP("127.0.0.1", plain, timeout=20) as client:
            client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")
        messages = [without_trace(content) for _, _, content in sink.wait(3)]
        messages.sort(key=len)
        assert messages[0] == b"Subject: x\r\n\r\nbody\r\n", "relayed as it came"
        assert messages[1].startswith(b"Message-ID: <1@a>\r\ndate: Mon"), messages[1]
        completed = email.message_from_bytes(messages[2])
        assert completed["Subject"] == "x" and completed.get_payload() == "body\r\n", messages[2]
        sent = email.utils.parsedate_to_datetime(completed["Date"])
        assert abs(time.time() - sent.timestamp()) < 60, completed["Date"]
        assert completed["Message-ID"].startswith("<") and "@" in completed["Message-ID"]


def a_user_sends_only_as_himself():
    with Sink() as sink, relay_with_users(sink=sink, text=SUBMISSION) as (relay, root):
        code = user(relay.users, "add", "ann", "--sender", "ann@a.test", "--sender", "@b.test", password="eraser")[0]
        assert code == 0
        relay.process.send_signal(1)
        wait_until("the new user", lambda: b"users read again" in relay.log)
        with secured(relay, root) as client:
            client.login("ann", "eraser")

            def send(sender, header):
                client.sendmail(sender, ["b@sink.test"], header + b"Subject: x\r\n\r\nbody\r\n")
            send("ann@A.test", b"From: Ann <ann@a.test>\r\n")
            send("any@b.test", b"From: (x) any@B.test\r\nSender: ann@a.test\r\n")
            for sender, header, words in (
                ("joe@a.test", b"", b"5.7.1 Sender address rejected: not permitted for this user"),
                ("ann@a.test", b"From: Joe <joe@a.test>\r\n", b"5.7.1 From header address not permitted for this user"),
                ("ann@a.test", b"From: ann@a.test,\r\n Joe <joe@a.test>\r\n", b"5.7.1 From header address not permitted for this user"),
                ("ann@a.test", b"From: ann@a.test\r\nSender: joe@a.test\r\n", b"5.7.1 Sender header address not permitted for this user"),
                ("any@b.test", b"From: <ceo@bank.test,any@b.test>\r\n", b"5.7.1 Malformed From header address list"),
                ("any@b.test", b"From: any@b.test\r\nFrom: ceo@bank.test\r\n", b"5.6.0 Duplicate From header field"),
                ("any@b.test", b"From: any@b.test\r\njunk\r\n", b"5.6.0 Malformed header field"),
                ("any@b.test", b"", b"5.6.0 Missing From header field"),
            ):
                code, told = refusal(lambda: send(sender, header))
                assert code == 550 and told.startswith(words), (code, told)
            # smtplib would double the dot that the next hop takes away.
            for line in (b".From: ceo@bank.test", b"From: any@b.test\r\n.Sender: ceo@bank.test"):
                client.mail("any@b.test")
                client.rcpt("b@sink.test")
                client.putcmd("DATA")
                assert client.getreply()[0] == 354
                client.send(line + b"\r\n\r\nbody\r\n.\r\n")
                code, told = client.getreply()
                assert code == 550 and b"header address not permitted for this user" in told, (code, told)
            assert user(relay.users, "remove", "ann")[0] == 0
            relay.process.send_signal(1)
            wait_until("her removal", lambda: relay.log.count(b"users read again") == 2)
            code, told = refusal(lambda: send("ann@a.test", b""))
            assert (code, told) == (550, b"5.7.1 User account no longer exists")
        sink.wait(2)
        assert len(relay.wait_event("received", 2)) == 2
        rejected = relay.wait_event("rejected", 11)
        assert {event["user"] for event in rejected} == {"ann"}, rejected


def an_hour_has_so_many_messages_and_recipients():
    with Sink() as sink, relay_with_users("--set", "auth.messages_per_hour=3", "--set", "auth.recipients_per_hour=4",
                                          sink=sink) as (relay, root):
        with relay.users.open("a") as file:
            file.write("messages_per_hour = 1\n")
        relay.process.send_signal(1)
        wait_until("the new limit", lambda: b"users read again" in relay.log)
        with secured(relay, root) as client:
            client.login("joe", "pencil")
            refused = client.sendmail("a@sender.test", [f"b{n}@sink.test" for n in range(6)], b"\r\nbody\r\n")
            assert list(refused) == ["b4@sink.test", "b5@sink.test"], refused
            assert refused["b4@sink.test"][0] == 452 and b"4.5.3 Recipient limit of 4 per hour" in refused["b4@sink.test"][1]
            code, told = client.mail("a@sender.test")
            assert code == 450 and told.startswith(b"4.7.1 Message limit of 1 per hour exceeded"), told
        assert len(sink.wait(1)[0][1]) == 4
        # Only what was taken counts; but what is open does, too.
        with relay.users.open("a") as file:
            file.write("recipients_per_hour = 5\n")
        text = relay.users.read_text().replace("messages_per_hour = 1\n", "messages_per_hour = 2\n")
        relay.users.write_text(text)
        relay.process.send_signal(1)
        wait_until("the newer limit", lambda: relay.log.count(b"users read again") >= 2)
        with secured(relay, root) as client, secured(relay, root) as other:
            for one in (client, other):
                one.login("joe", "pencil")
            for _ in range(5):
                # Whichever shards the two have: what one gives back the other can take at once.
                assert client.mail("a@sender.test")[0] == 250
                assert client.rcpt("b@sink.test")[0] == 250
                assert other.mail("a@sender.test")[0] == 450
                client.rset()
            assert other.mail("a@sender.test")[0] == 250
            assert other.rcpt("b@sink.test")[0] == 250
            assert other.rcpt("c@sink.test")[0] == 452
            other.close()
            wait_until("what was open to be given back", lambda: client.mail("a@sender.test")[0] == 250)
            client.rset()
            client.sendmail("a@sender.test", ["b@sink.test"], b"\r\nbody\r\n")
            assert client.mail("a@sender.test")[0] == 450
        sink.wait(2)
    limit = '[access]\nrelay_networks = ["127.0.0.1"]\n[[access.limit]]\nnetwork = "127.0.0.0/8"\nmessages_per_hour = 2\n'
    with Sink() as sink, written(Relay(smart_host=sink.port), limit) as relay:
        def send():
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                client.sendmail("a@sender.test", ["b@sink.test"], b"\r\nbody\r\n")
        send()
        send()
        assert refusal(send)[0] == 450
        sink.wait(2)


def a_user_may_say_etrn():
    with relay_with_users() as (relay, root), secured(relay, root) as client:
        assert "etrn" not in client.esmtp_features
        assert client.docmd("ETRN", "sink.test")[0] == 459
        client.login("joe", "pencil")
        client.ehlo("client.test")
        assert "etrn" in client.esmtp_features
        assert client.docmd("ETRN", "sink.test") == (251, b"2.0.0 No messages queued for that node")


@contextlib.contextmanager
def password_file(name, password):
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f'user = "{name}"\npassword = "{password}"\n')
        file.flush()
        yield file.name


def post(relay):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")


def deliveries_log_in_at_the_smart_host():
    """SCRAM at another Ringpost; PLAIN and LOGIN at aiosmtpd; a password that has been changed is used at once."""
    with Sink() as sink, relay_with_users(sink=sink) as (behind, root), password_file("joe", "pencil") as file:
        words = ["--set", f"route.auth={file}", "--set", "route.tls=must"]
        with Relay(*words, smart_host=behind.port) as before:
            post(before)
            assert b"with ESMTPSA" in sink.wait(1)[0][2]
            assert behind.wait_event("received", 1)[0]["user"] == "joe"
            assert "+auth-" in before.wait_event("delivered", 1)[0]["site"]
            assert user(behind.users, "add", "joe", "--replace", password="newer")[0] == 0
            behind.process.send_signal(1)
            wait_until("the new password", lambda: b"users read again" in behind.log)
            pathlib.Path(file).write_text('user = "joe"\npassword = "newer"\n')
            before.process.send_signal(1)
            wait_until("the new file", lambda: b"passwords for next hops read again" in before.log)
            time.sleep(6)
            post(before)
            sink.wait(2)
    with certificates("sink.test") as (made, _):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made["sink.test"])
        for left_out in ("LOGIN", "PLAIN"):
            asked = []

            def check(server, session, envelope, mechanism, data):
                asked.append((mechanism, data.login, data.password))
                return AuthResult(success=data.password == b"pencil")
            with Sink(tls_context=context, authenticator=check, auth_required=True,
                      auth_exclude_mechanism=[left_out]) as sink, password_file("joe", "pencil") as file:
                with Relay("--set", f"route.auth={file}", smart_host=sink.port) as relay:
                    post(relay)
                    sink.wait(1)
            assert len(asked) == 1 and asked[0][0] != left_out and asked[0][1:] == (b"joe", b"pencil"), asked


def mail_waits_when_the_smart_host_does_not_know_us():
    with relay_with_users() as (behind, root), password_file("joe", "pencel") as file:
        with Relay("--set", f"route.auth={file}", "--set", "route.tls=must", smart_host=behind.port) as before:
            post(before)
            event = before.wait_event("deferred", 1)[0]
            assert (event["stage"], event["code"], event["status"]) == ("auth", 535, "5.7.8"), event
            assert event["text"].startswith("the host did not take our login: Authentication credentials"), event
            assert not before.events("bounced") and len(before.queue()) == 1
    with Sink() as sink, password_file("joe", "pencil") as file:
        with Relay("--set", f"route.auth={file}", smart_host=sink.port) as relay:
            post(relay)
            event = relay.wait_event("deferred", 1)[0]
            assert (event["stage"], event["status"]) == ("auth", "4.7.4"), event
            assert "must not go in the clear" in event["text"], event
    seen = []

    def check(server, session, envelope, mechanism, data):
        seen.append(data.password)
        return AuthResult(success=True)
    with Sink(authenticator=check, auth_require_tls=False) as sink, password_file("joe", "pencil") as file:
        words = ["--set", f"route.auth={file}", "--set", "route.auth_without_tls=true"]
        with Relay(*words, smart_host=sink.port) as relay:
            post(relay)
            sink.wait(1)
    assert seen == [b"pencil"]


def the_debug_log_has_the_conversations_without_secrets_and_content():
    with Sink() as sink, relay_with_users(sink=sink) as (relay, root):
        relay.env["RINGPOST_LOG"] = "debug"
        relay.restart()
        with secured(relay, root) as client:
            client.login("joe", "pencil")
            client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: private\r\n\r\nits text\r\n")
        sink.wait(1)
        relay.wait_empty()

        for line in ("C: STARTTLS", "C: rcpt TO:<b@sink.test>", "S: 354 ", "C: QUIT"):
            wait_until(f"the client's {line}", lambda line=line: line.encode() in relay.log)
        for line in ("C: MAIL FROM:<a@sender.test>", "C: DATA", "S: 221 ", "S: 354 End data with <CR><LF>.<CR><LF>"):
            wait_until(f"the host's {line}", lambda line=line: line.encode() in relay.log)
        assert b" C: AUTH " in relay.log
        for secret in (b"pencil", base64.b64encode(b"\0joe\0pencil"), base64.b64encode(b"pencil"), b"private", b"its text"):
            assert secret not in relay.log, secret


TESTS = (
    the_debug_log_has_the_conversations_without_secrets_and_content,
    users_are_added_listed_verified_and_removed,
    files_with_secrets_that_others_may_read_are_refused,
    a_terminal_is_asked_twice_and_shows_nothing,
    smtplib_logs_in_and_the_trace_and_the_events_say_so,
    swaks_curl_and_msmtp_log_in,
    scram_plus_is_tied_to_the_connection_that_openssl_sees,
    scram_plus_is_tied_to_the_certificate_under_tls_1_2,
    names_of_nobody_are_answered_the_same_after_a_restart,
    who_guesses_is_made_to_wait,
    guesses_at_once_are_not_more_than_guesses_one_by_one,
    a_refusal_comes_late,
    users_are_read_again_at_sighup,
    submission_demands_a_user_and_completes_his_mail,
    a_user_sends_only_as_himself,
    an_hour_has_so_many_messages_and_recipients, a_user_may_say_etrn,
    deliveries_log_in_at_the_smart_host,
    mail_waits_when_the_smart_host_does_not_know_us,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
