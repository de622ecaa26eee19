"""TLS in both directions: real clients that send to the relay, and real next hops."""

import contextlib
import pathlib
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time

from harness import BINARY, Relay, Sink, free_port, main, need, wait_until


@contextlib.contextmanager
def certificates(*names):
    """A root and a certificate for each name: {name: (cert, key)}, and the root's file."""
    need("openssl")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def run(*words):
            subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=root of the test")
        made = {}
        for name in names:
            kind = "IP" if name[0].isdigit() else "DNS"
            run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
                "-out", f"{name}.csr", "-subj", f"/CN={name}")
            (folder / "ext").write_text(f"subjectAltName={kind}:{name}\nbasicConstraints=CA:FALSE\n")
            run("x509", "-req", "-in", f"{name}.csr", "-CA", "root.pem", "-CAkey", "root.key",
                "-CAcreateserial", "-days", "2", "-out", f"{name}.pem", "-extfile", "ext")
            made[name] = (str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
        yield made, str(folder / "root.pem")


def flags(pair):
    return ["--tls-cert", pair[0], "--tls-key", pair[1]]


def trusting(root):
    return ssl.create_default_context(cafile=root)


def written(relay, text):
    """Starts the relay with this file besides its flags."""
    path = pathlib.Path(relay.own_folder) / "r.toml"
    path.write_text(text)
    relay.flags += ["--config", str(path)]
    return relay


def send(client):
    assert not client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nbody\r\n")


def smtplib_starts_tls_and_received_shows_it():
    with certificates("relay.test") as (made, root), Sink() as sink:
        with Relay(*flags(made["relay.test"]), smart_host=sink.port) as relay:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = trusting(root)
                context.minimum_version = context.maximum_version = version
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                    client._host = "relay.test"
                    client.ehlo("client.test")
                    assert client.has_extn("starttls")
                    client.starttls(context=context)
                    client.ehlo("client.test")
                    assert not client.has_extn("starttls")
                    send(client)
            (_, _, first), (_, _, second) = sink.wait(2)
            assert b"with ESMTPS (TLSv1.2) id" in first and b"with ESMTPS (TLSv1.3) id" in second
            assert b"tls TLS_AES_" in second, second[:400]
            events = relay.wait_event("received", 2)
            assert {event["protocol"] for event in events} == {"ESMTPS"}
            assert sorted(event["tls"] for event in events) == ["TLSv1.2", "TLSv1.3"], events


def swaks_and_openssl_are_served():
    need("swaks")
    with certificates("relay.test") as (made, root), Sink() as sink:
        implicit = free_port()
        relay = Relay(*flags(made["relay.test"]), smart_host=sink.port)
        del relay.flags[:2]
        written(relay, f'[[listener]]\naddress = "127.0.0.1:{relay.port}"\ntls = "require"\n'
                       f'[[listener]]\naddress = "127.0.0.1:{implicit}"\ntls = "implicit"\n')
        with relay:
            swaks = ["swaks", "-f", "a@sender.test", "-t", "b@sink.test", "--helo", "client.test"]
            for words, code in ((["-s", f"127.0.0.1:{relay.port}", "-tls"], 0),
                                (["-s", f"127.0.0.1:{implicit}", "-tlsc"], 0),
                                (["-s", f"127.0.0.1:{relay.port}"], 23)):
                done = subprocess.run(swaks + words, capture_output=True, text=True, timeout=30, check=False)
                assert done.returncode == code, (words, done.returncode, done.stdout)
                if code:
                    assert "530 5.7.0 Must issue a STARTTLS command first" in done.stdout, done.stdout
            for words in (["-connect", f"127.0.0.1:{implicit}"],
                          ["-connect", f"127.0.0.1:{relay.port}", "-starttls", "smtp"]):
                client = subprocess.Popen(
                    ["openssl", "s_client", *words, "-CAfile", root, "-verify_hostname", "relay.test",
                     "-verify_return_error", "-quiet", "-crlf"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                # After the greeting, which must come first; with -starttls it is not shown.
                greeting = "" if "-starttls" in words else client.stdout.readline()
                output, errors = client.communicate("EHLO client.test\nQUIT\n", timeout=30)
                output = greeting + output
                assert "250-PIPELINING" in output and "221 2.0.0" in output, (output, errors)
            sink.wait(2)


def the_requested_name_chooses_the_certificate_and_sighup_reloads():
    with certificates("one.test", "two.test", "new.test") as (made, root):
        relay = Relay(*flags(made["one.test"]))
        cert, key = made["two.test"]
        written(relay, f'[[tls.certificate]]\ncert = "{cert}"\nkey = "{key}"\n')
        with relay:
            def shown(name):
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                    client._host = name
                    context = ssl.create_default_context(cafile=root)
                    context.check_hostname = False
                    client.starttls(context=context)
                    subject = client.sock.getpeercert()["subject"]
                    return subject[0][0][1]
            assert (shown("one.test"), shown("two.test"), shown("three.test")) == \
                ("one.test", "two.test", "one.test")
            good = pathlib.Path(cert).read_bytes()
            pathlib.Path(cert).write_bytes(b"not a certificate")
            relay.process.send_signal(1)
            wait_until("the refusal", lambda: b"the old ones stay in use" in relay.log)
            assert shown("two.test") == "two.test"
            pathlib.Path(cert).write_bytes(pathlib.Path(made["new.test"][0]).read_bytes())
            pathlib.Path(key).write_bytes(pathlib.Path(made["new.test"][1]).read_bytes())
            relay.process.send_signal(1)
            wait_until("the new one", lambda: shown("new.test") == "new.test")
            assert good and shown("one.test") == "one.test"


def commands_before_the_handshake_are_dropped():
    """CVE-2011-0411 and similar: commands that an attacker injects after STARTTLS are dropped."""
    with certificates("relay.test") as (made, root), Sink() as sink:
        with Relay(*flags(made["relay.test"]), smart_host=sink.port) as relay:
            with socket.create_connection(("127.0.0.1", relay.port), 20) as plain:
                plain.recv(1000)
                plain.sendall(b"EHLO client.test\r\n")
                plain.recv(1000)
                plain.sendall(b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\n")
                assert plain.recv(1000) == b"220 2.0.0 Ready to start TLS\r\n"
                with trusting(root).wrap_socket(plain, server_hostname="relay.test") as secure:
                    secure.sendall(b"RCPT TO:<b@sink.test>\r\n")
                    assert secure.recv(1000).startswith(b"503 5.5.1 Send EHLO or HELO first")
                    secure.sendall(b"EHLO client.test\r\nRCPT TO:<b@sink.test>\r\nQUIT\r\n")
                    replies = b""
                    while b"221 " not in replies:
                        replies += secure.recv(1000)
                    assert b"503 5.5.1 Send MAIL first" in replies, replies
            assert not relay.events("received")


def incomplete_handshakes_do_not_block_others():
    with certificates("relay.test") as (made, _), Sink() as sink:
        with Relay(*flags(made["relay.test"]), "--set", "session.tls_timeout=1s",
                   smart_host=sink.port) as relay:
            stuck = []
            for number in range(200):
                client = socket.create_connection(("127.0.0.1", relay.port), 20)
                client.settimeout(20)
                client.recv(1000)
                client.sendall(b"EHLO client.test\r\nSTARTTLS\r\n")
                received = b""
                while b"220 2.0.0" not in received:
                    received += client.recv(1000)
                # Nothing, half a hello, or nonsense.
                client.sendall((b"", b"\x16\x03\x01\x02\x00\x01", b"\x15\x03\x01\x00\x02\x02\x28")[number % 3])
                stuck.append(client)
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                send(client)
            sink.wait()
            begun = time.monotonic()
            for client in stuck:
                with contextlib.suppress(ConnectionError):
                    while client.recv(1000):
                        pass
                client.close()
            assert time.monotonic() - begun < 10


def deliveries_use_tls_where_the_host_supports_it():
    with certificates("sink.test") as (made, _):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made["sink.test"])
        with Sink(tls_context=context) as sink, Relay(smart_host=sink.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                send(client)
            sink.wait()
            event = relay.wait_event("delivered", 1)[0]
            assert event["tls"] == "TLSv1.3" and event["cipher"].startswith("TLS_"), event
        with Sink() as sink, Relay(smart_host=sink.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                send(client)
            sink.wait()
            assert "tls" not in relay.wait_event("delivered", 1)[0], "in the clear, without TLS"


def a_failed_handshake_is_handled_by_the_policy_of_the_route():
    """A host whose handshake fails after STARTTLS: with "may" mail is sent in the clear, else it waits."""
    with certificates("sink.test") as (made, _):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made["sink.test"])
        # No version that both support.
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        for policy in ("may", "must", "must-verify", "off"):
            with Sink(tls_context=context) as sink:
                with Relay("--set", f"route.tls={policy}", smart_host=sink.port) as relay:
                    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                        send(client)
                    if policy in ("may", "off"):
                        sink.wait()
                        assert "tls" not in relay.wait_event("delivered", 1)[0]
                    else:
                        event = relay.wait_event("deferred", 1)[0]
                        assert (event["status"], event["stage"]) == ("4.7.5", "tls"), event
                        assert not sink.messages


def only_a_host_with_a_valid_certificate_is_trusted():
    with certificates("127.0.0.1", "sink.test") as (made, root):
        for name, expected in (("127.0.0.1", "delivered"), ("sink.test", "deferred")):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*made[name])
            with Sink(tls_context=context) as sink:
                words = ["--set", "route.tls=must-verify", "--set", f"tls.roots={root}"]
                with Relay(*words, smart_host=sink.port) as relay:
                    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                        send(client)
                    event = relay.wait_event(expected, 1)[0]
                    if expected == "deferred":
                        assert event["status"] == "4.7.5" and "certificate" in event["text"], event
                        assert not sink.messages
                    assert "+tls-must-verify" in event["site"], event
        # Without STARTTLS there is no certificate.
        with Sink() as sink, Relay("--set", "route.tls=must", smart_host=sink.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                send(client)
            event = relay.wait_event("deferred", 1)[0]
            assert event["status"] == "4.7.4" and "does not offer STARTTLS" in event["text"], event
            assert not sink.messages


def relay_to_relay_over_implicit_tls():
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        port = free_port()
        behind = Relay(*flags(made["127.0.0.1"]), smart_host=sink.port)
        del behind.flags[:2]
        written(behind, f'[[listener]]\naddress = "127.0.0.1:{behind.port}"\n'
                        f'[[listener]]\naddress = "127.0.0.1:{port}"\ntls = "implicit"\n')
        before = Relay("--smart-host", f"smtps://127.0.0.1:{port}", "--set", "route.tls=must-verify",
                       "--set", f"tls.roots={root}")
        with behind, before:
            with smtplib.SMTP("127.0.0.1", before.port, timeout=20) as client:
                for _ in range(20):
                    send(client)
            messages = sink.wait(20)
            assert all(b"with ESMTPS (TLSv1.3)" in content for _, _, content in messages)
            assert before.wait_event("delivered", 20)[0]["tls"] == "TLSv1.3"


def mail_with_requiretls_is_not_sent_without_it_and_its_header_is_returned():
    """RFC 8689 4.2.1 and 5: RET=FULL is ignored, and the report is sent anyway."""
    with certificates("relay.test") as (made, root), Sink() as sink:
        with Relay(*flags(made["relay.test"]), smart_host=sink.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                client._host = "relay.test"
                client.ehlo("client.test")
                assert not client.has_extn("requiretls")
                client.starttls(context=trusting(root))
                client.ehlo("client.test")
                assert client.has_extn("requiretls")
                client.sendmail("a@sender.test", ["b@sink.test"], b"Subject: x\r\n\r\nthe body\r\n",
                                ["REQUIRETLS", "RET=FULL"])
            (source, recipients, report), = sink.wait(1)
            assert source == "" and recipients == ["a@sender.test"]
            assert b"Status: 5.7.10" in report and b"Content-Type: text/rfc822-headers" in report, report
            assert b"Subject: x\r\n" in report and b"the body" not in report
            relay.wait_empty()
            assert len(sink.messages) == 1


def errors_in_certificates_are_reported_at_start():
    with certificates("one.test", "two.test") as (made, _):
        cert, key = made["one.test"]
        for words, expected in (
            (["--tls-cert", cert], "--tls-cert: without a key"),
            (["--tls-cert", cert, "--tls-key", made["two.test"][1]], "not the key of the certificate"),
            (["--tls-cert", "/nowhere.pem", "--tls-key", key], "/nowhere.pem: No such file"),
            (["--tls-cert", key, "--tls-key", key], "no certificate in it"),
        ):
            relay = Relay(*words)
            for command in ("check", "serve"):
                done = subprocess.run([BINARY, command, *relay.flags], capture_output=True, text=True,
                                      timeout=20, check=False)
                assert done.returncode != 0 and expected in done.stderr, (command, words, done)


TESTS = (
    smtplib_starts_tls_and_received_shows_it,
    swaks_and_openssl_are_served,
    the_requested_name_chooses_the_certificate_and_sighup_reloads,
    commands_before_the_handshake_are_dropped,
    incomplete_handshakes_do_not_block_others,
    deliveries_use_tls_where_the_host_supports_it,
    a_failed_handshake_is_handled_by_the_policy_of_the_route,
    only_a_host_with_a_valid_certificate_is_trusted,
    relay_to_relay_over_implicit_tls,
    mail_with_requiretls_is_not_sent_without_it_and_its_header_is_returned,
    errors_in_certificates_are_reported_at_start,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
