"""Clients that log in with certificates: by fingerprint, or by a name that a trusted root has signed."""

import base64
import contextlib
import pathlib
import smtplib
import ssl
import subprocess
import tempfile
import time

from encryption import certificates, trusting
from harness import Sink, main, need, wait_until
from users import SUBMISSION, relay_with_users, user


class Authority:
    """A certificate authority for the test."""

    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
        self.root = str(self.folder / f"{name}.pem")

    def run(self, *words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)

    def issue(self, file, names, usage="clientAuth", days="2"):
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{file}.key",
                 "-out", f"{file}.csr", "-subj", "/CN=joe")
        extensions = "basicConstraints=CA:FALSE\n"
        extensions += f"subjectAltName={names}\n" if names else ""
        extensions += f"extendedKeyUsage={usage}\n" if usage else ""
        (self.folder / "ext").write_text(extensions)
        self.run("x509", "-req", "-in", f"{file}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key",
                 "-CAcreateserial", "-days", days, "-out", f"{file}.pem", "-extfile", "ext")
        return str(self.folder / f"{file}.pem"), str(self.folder / f"{file}.key")


def external(relay, root, pair, name=None, version=ssl.TLSVersion.TLSv1_3):
    """The reply to EXTERNAL with this certificate."""
    context = trusting(root)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(*pair)
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client._host = "relay.test"
        client.starttls(context=context)
        client.ehlo("client.test")
        message = base64.b64encode(name.encode()).decode() if name else "="
        code, text = client.docmd("AUTH", f"EXTERNAL {message}")
        return code, text.decode()


def known(relay, *users):
    """Writes the users file, a name and a line for each user, and waits until it is read."""
    count = relay.log.count(b"users read again")
    with relay.users.open("a") as file:
        for name, line in users:
            file.write(f'[[user]]\nname = "{name}"\n{line}\n')
    relay.process.send_signal(1)
    wait_until("the users", lambda: relay.log.count(b"users read again") > count)


@contextlib.contextmanager
def relay_with_roots(path, failures=1000):
    asking = SUBMISSION + f'client_certificates = true\n[tls]\nclient_roots = "{path}"\n'
    with relay_with_users("--set", f"auth.failures_per_address={failures}", text=asking) as (relay, root):
        yield relay, root


def a_user_logs_in_with_a_certificate():
    need("msmtp")
    text = SUBMISSION + "client_certificates = true\n"
    with Sink() as sink, certificates("joe", "ann") as (made, _), relay_with_users(sink=sink, text=text) as (relay, root):
        fingerprint = subprocess.run(["openssl", "x509", "-in", made["joe"][0], "-fingerprint", "-sha256", "-noout"],
                                     check=True, capture_output=True, text=True).stdout.strip().split("=")[1]
        with relay.users.open("a") as file:
            file.write(f'certificates = ["{fingerprint}"]\n')
        relay.process.send_signal(1)
        wait_until("the certificate", lambda: b"users read again" in relay.log)

        def reply(name, message, version=ssl.TLSVersion.TLSv1_3):
            context = trusting(root)
            context.minimum_version = context.maximum_version = version
            if name:
                context.load_cert_chain(*made[name])
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                client._host = "relay.test"
                client.starttls(context=context)
                client.ehlo("client.test")
                assert ("EXTERNAL" in client.esmtp_features["auth"].split()) == bool(name)
                return client.docmd("AUTH", f"EXTERNAL {message}")[0]
        assert reply("joe", "=") == 235 and reply("joe", "=", ssl.TLSVersion.TLSv1_2) == 235
        assert reply("joe", base64.b64encode(b"joe").decode()) == 235
        assert reply("joe", base64.b64encode(b"ann").decode()) == 535, "another's name"
        assert reply("ann", "=") == 535, "a certificate of no user"
        assert reply(None, "=") == 504, "none at all"
        cert, key = made["joe"]
        done = subprocess.run(
            ["msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={relay.port}", "--tls=on", "--tls-starttls=on",
             "--tls-certcheck=off", "--from=a@sender.test", "--auth=external", "--user=joe", f"--tls-cert-file={cert}",
             f"--tls-key-file={key}", "b@sink.test"], input="Subject: x\n\nbody\n", capture_output=True, text=True,
            timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert b"with ESMTPSA" in sink.wait(1)[0][2]
        assert relay.wait_event("received", 1)[0]["user"] == "joe"


def a_user_logs_in_with_a_certificate_name_from_a_trusted_root():
    need("openssl")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        with relay_with_roots(ours.root) as (relay, root):
            known(relay, ("mail", 'certificate_names = ["email:joe@Example.com"]'),
                  ("host", 'certificate_names = ["dns:Host.example.com"]'),
                  ("work", 'certificate_names = ["uri:spiffe://example.com/work"]'))
            right = (235, "2.7.0 Authentication successful")
            wrong = (535, "5.7.8 Authentication credentials invalid")
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                pair = ours.issue("mail", "email:joe@example.com,email:other@example.com")
                assert external(relay, root, pair, version=version) == right
            assert external(relay, root, pair, "mail") == right
            assert external(relay, root, pair, "host")[0] == 535, "another's name"
            assert external(relay, root, ours.issue("host", "DNS:HOST.example.com", usage=None)) == right
            assert external(relay, root, ours.issue("work", "URI:spiffe://example.com/work")) == right
            for file, names, more in (("case", "email:JOE@example.com", {}), ("sub", "DNS:a.host.example.com", {}),
                                      ("star", "DNS:*.example.com", {}), ("none", "", {}),
                                      ("server", "email:joe@example.com", {"usage": "serverAuth"})):
                assert external(relay, root, ours.issue(file, names, **more)) == wrong, file
            assert external(relay, root, theirs.issue("foreign", "email:joe@example.com")) == wrong
            old = ours.issue("old", "email:joe@example.com", days="0")
            time.sleep(1.5)
            assert external(relay, root, old) == wrong, "its time is over"


def with_a_certificate_of_several_users_the_client_names_one():
    with tempfile.TemporaryDirectory() as folder:
        ours = Authority(folder, "ours")
        with relay_with_roots(ours.root) as (relay, root):
            pair = ours.issue("both", "email:a@example.com,DNS:b.example.com")
            known(relay, ("ann", 'certificate_names = ["email:a@example.com"]'),
                  ("bob", 'certificate_names = ["dns:b.example.com"]'))
            assert external(relay, root, pair) == (535, "5.7.8 Certificate matches several users; specify an authorization identity")
            assert external(relay, root, pair, "ann")[0] == 235 and external(relay, root, pair, "bob")[0] == 235
            assert external(relay, root, pair, "joe")[0] == 535


def wrong_certificates_are_counted_like_wrong_passwords():
    with tempfile.TemporaryDirectory() as folder:
        ours = Authority(folder, "ours")
        with relay_with_roots(ours.root, 3) as (relay, root):
            known(relay, ("ann", 'certificate_names = ["email:a@example.com"]'))
            right = ours.issue("right", "email:a@example.com")
            assert external(relay, root, right)[0] == 235
            replies = [external(relay, root, right, "joe")[0] for _ in range(4)]
            assert replies == [535, 535, 535, 454], replies
            assert external(relay, root, right)[0] == 454, "the right one too"


def client_roots_are_reloaded():
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        roots = pathlib.Path(folder) / "roots.pem"
        roots.write_text(pathlib.Path(ours.root).read_text())
        with relay_with_roots(roots) as (relay, root):
            known(relay, ("ann", 'certificate_names = ["email:a@example.com"]'))
            old, new = ours.issue("old", "email:a@example.com"), theirs.issue("new", "email:a@example.com")
            assert external(relay, root, old)[0] == 235 and external(relay, root, new)[0] == 535
            count = relay.log.count(b"certificates read again")
            roots.write_text(pathlib.Path(theirs.root).read_text())
            relay.process.send_signal(1)
            wait_until("the new root", lambda: relay.log.count(b"certificates read again") > count)
            assert external(relay, root, old)[0] == 535 and external(relay, root, new)[0] == 235
            roots.write_text("nonsense")
            code, _, errors = relay.command("check")
            assert code == 2 and "roots.pem: no certificate in it" in errors, errors


def certificate_names_without_roots_cause_a_warning():
    with relay_with_users(text=SUBMISSION) as (relay, _):
        with relay.users.open("a") as file:
            file.write('certificate_names = ["email:joe@example.com"]\n')
        code, _, errors = relay.command("check")
        assert code == 0 and "certificate_names" in errors and "tls.client_roots" in errors, (code, errors)
        code, output, _ = user(relay.users, "list")
        assert code == 0 and "certificate" in output, output


TESTS = (
    a_user_logs_in_with_a_certificate,
    a_user_logs_in_with_a_certificate_name_from_a_trusted_root,
    with_a_certificate_of_several_users_the_client_names_one,
    wrong_certificates_are_counted_like_wrong_passwords,
    client_roots_are_reloaded,
    certificate_names_without_roots_cause_a_warning,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
