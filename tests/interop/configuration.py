"""What the relay says of its configuration: the key and the line of a file that cannot be used, and
what changed at SIGHUP."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile

from dns_routing import NameServers
from encryption import certificates
from harness import BINARY, Relay, main, wait_until


@contextlib.contextmanager
def configuration(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "r.toml"
        path.write_text(f'spool.directory = "{folder}/spool"\n' + text.replace("FOLDER", folder))
        yield path


def says(path, *words):
    """The errors of a command that has to fail."""
    done = subprocess.run([BINARY, *words, "--config", str(path)], capture_output=True, text=True,
                          timeout=30, check=False)
    assert done.returncode != 0, done.stderr
    return done.stderr


def a_file_that_cannot_be_used_is_named_with_its_key_and_line():
    with certificates("relay.test") as (made, _), tempfile.TemporaryDirectory() as folder:
        cert, key = made["relay.test"]
        for name, text in (("private", ""), ("open", "user = \"joe\"\npassword = \"pencil\"\n")):
            (pathlib.Path(folder) / name).write_text(text)
            os.chmod(f"{folder}/{name}", 0o600 if name == "private" else 0o644)
        tokens = ('[auth.tokens]\nintrospection_endpoint = "https://x.test/i"\nclient_id = "r"\n'
                  'scope = "mail"\nclient_secret_file = "/missing.secret"\n')
        table = (
            # what is written, the line of the key, the key, and the fault
            (f'[tls]\ncert = "/missing.pem"\nkey = "{key}"\n', 3, "tls.cert", "/missing.pem: No such file"),
            (f'[tls]\ncert = "{cert}"\nkey = "/missing.key"\n', 4, "tls.key", "/missing.key: No such file"),
            (f'[[tls.certificate]]\ncert = "{key}"\nkey = "{key}"\n', 3, "tls.certificate.cert", f"{key}: "),
            ('[tls]\nroots = "/missing.roots"\n', 3, "tls.roots", "/missing.roots: I/O error: No such file"),
            ('[auth]\nusers = "/missing.users"\n', 3, "auth.users", "/missing.users: No such file"),
            (tokens, 6, "auth.tokens.client_secret_file", "/missing.secret: No such file"),
            ('[route]\nsmart_host = "a.test"\nauth = "/missing.auth"\n', 4, "route.auth", "/missing.auth: No such file"),
            (f'[route]\nsmart_host = "a.test"\nauth = "{folder}/open"\n', 4, "route.auth", f"{folder}/open: its mode is 644"),
            (f'[[route.rule]]\ndomain = "a"\nnext_hop = "b"\nauth = "{folder}/private"\n', 5, "route.rule.auth",
             f"{folder}/private: not what it should be"),
            (f'[route]\ntls_cert = "/missing.cert"\ntls_key = "{key}"\n', 3, "route.tls_cert", "/missing.cert: No such file"),
        )
        for text, line, key_name, fault in table:
            with configuration(text) as path:
                expected = f"ringpost: {path}:{line}: {key_name}: {fault}"
                for words in (["check"], ["serve", "--listen", "127.0.0.1:0"]):
                    said = says(path, *words)
                    assert expected in said, (words, expected, said)
        with configuration("") as path:
            said = says(path, "check", "--users", "/missing.users")
            assert "ringpost: --users: /missing.users: No such file" in said, said
            said = says(path, "check", "--set", "tls.roots=/missing.pem")
            assert "ringpost: --set tls.roots: /missing.pem: I/O error: No such file" in said, said


def a_next_hop_that_has_mx_records_alone_is_found_by_the_live_check():
    """Of the zone in dns/mail.test.zone."""
    with NameServers() as names, configuration(
        '[route]\nsmart_host = "two.mail.test"\n[[route.rule]]\ndomain = "x.org"\nnext_hop = "mx1.mail.test"\n'
    ) as path:
        done = subprocess.run(
            [BINARY, "check", "--live", "--config", str(path), "--listen", "127.0.0.1:0", "--set",
             f"dns.servers={names.unbound}"], capture_output=True, text=True, timeout=60, check=False)
        warning = "the next hop two.mail.test has no address in the DNS, but MX records"
        assert warning in done.stderr and '"mx1.mail.test"' in done.stderr, done.stderr
        assert "ok: next hop mx1.mail.test has an address" in done.stderr, done.stderr


def changes_at_sighup_are_logged_as_they_are_written():
    with certificates("relay.test", "other.test") as (made, _):
        (cert, key), (other, other_key) = made["relay.test"], made["other.test"]
        text = f'[tls]\ncert = "{cert}"\nkey = "{key}"\n[pool]\nidle = "5s"\n'
        with configuration(text) as path, Relay("--config", str(path)) as relay:
            changed = text.replace(cert, other).replace(key, other_key).replace('"5s"', '"7s"')
            path.write_text(path.read_text().replace(text, changed))
            relay.process.send_signal(signal.SIGHUP)
            wait_until("it has been read", lambda: b"configuration read again" in relay.log)
            log = relay.log.decode()
            assert 'needs a restart to take effect key=pool.idle before="5s" after="7s"' in log, log
            assert f'takes effect now key=tls.cert before="{cert}" after="{other}"' in log, log


def a_check_fails_where_a_start_would_and_says_for_which_key():
    with tempfile.NamedTemporaryFile() as plain:
        for text, key in (
            ('event.file = "/dev/null"\n', "event.file: /dev/null: not a regular file"),
            ('event.file = "/tmp"\n', "event.file: /tmp: not a regular file"),
            (f'control.socket = "{plain.name}"\n', f"control.socket: {plain.name}: "),
        ):
            with configuration(text) as path:
                listen = ["--listen", "127.0.0.1:0"]
                for words in (["check", *listen], ["serve", *listen]):
                    assert key.split(": ")[1] in says(path, *words), words
                assert f"would not start here: {path}:2: {key}" in says(path, "check", *listen)


TESTS = (
    a_check_fails_where_a_start_would_and_says_for_which_key,
    a_file_that_cannot_be_used_is_named_with_its_key_and_line,
    a_next_hop_that_has_mx_records_alone_is_found_by_the_live_check,
    changes_at_sighup_are_logged_as_they_are_written,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
