"""Exim and OpenSMTPD as client and as next hop, with every extension that they share with the relay.

LMTP is not among them: neither of the two is an LMTP server, nor is the relay.

Their packages cannot be installed beside Postfix, so `.ci/run` only unpacks them, below
`target/mtas` (or RINGPOST_MTAS). Each runs in its own root directory (chroot), with its libraries
and users; that requires root.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import smtplib
import ssl
import subprocess
import tempfile

from clients import send
from encryption import certificates, flags
from harness import ROOT, Relay, Sink, dialogue, free_port, main, need, wait_until, without_trace
from inbound_esmtp import messages_of
from users import password_file, relay_with_users

PROGRAMS = pathlib.Path(os.environ.get("RINGPOST_MTAS", ROOT / "target/mtas")).resolve()

ACCOUNTS = ("root:0", "exim:101", "Debian-exim:101", "opensmtpd:102", "opensmtpq:103",
            "nobody:65534")


class Caged:
    """A program that listens on `port`, in its own root directory."""

    folders, helpers, key_mode = (), (), 0o600

    def __init__(self, pair, root):
        binary = PROGRAMS / self.program
        assert binary.exists(), f"{binary} is not there; .ci/run unpacks it"
        assert os.geteuid() == 0, f"{self.name} must be started as root"
        need("chroot", "ldd")
        self.port, self.pair, self.root = free_port(), pair, root
        self.process = None

    def __enter__(self):
        self.own = tempfile.TemporaryDirectory(prefix="ringpost-test-")
        # No other program uses this directory: Exim gets the permissions of its package there.
        self.folder = pathlib.Path(self.own.name, "root")
        for path in ("dev", "etc/ssl/certs", "tmp", "run", "var/run", *self.folders):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        for program in (self.program, *self.helpers):
            self.bring(program)
        for device, minor in (("null", 3), ("urandom", 9)):
            os.mknod(self.folder / "dev" / device, 0o20666, os.makedev(1, minor))
            (self.folder / "dev" / device).chmod(0o666)
        accounts = [one.split(":") for one in ACCOUNTS]
        self.write("etc/passwd", "".join(f"{who}:x:{n}:{n}::/:/bin/sh\n" for who, n in accounts))
        self.write("etc/group", "".join(f"{who}:x:{n}:\n" for who, n in accounts))
        self.write("etc/hosts", "127.0.0.1 localhost relay.test\n")
        self.write("etc/resolv.conf", "lookup file\nnameserver 127.0.0.1\n")
        self.write("etc/ssl/certs/ca-certificates.crt", pathlib.Path(self.root).read_text())
        for name, path, mode in zip(("cert.pem", "key.pem"), self.pair, (0o644, self.key_mode)):
            self.write("etc/" + name, pathlib.Path(path).read_text(), mode)
        self.prepare()
        with open(self.folder / "said", "wb") as said:
            words = ["chroot", str(self.folder), "/" + self.program, *self.words]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said,
                                            stderr=said, start_new_session=True, cwd="/")
        try:
            wait_until(f"{self.name} listens", self._listens)
        except AssertionError:
            self.__exit__(AssertionError)
            raise
        return self

    def __exit__(self, kind, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        if kind is not None:
            print(f"--- {self.name}'s diagnostics\n{self.log()[-4000:]}---")
        self.own.cleanup()

    def _listens(self):
        assert self.process.poll() is None, self.log()
        try:
            return b"220" in dialogue(self.port, b"QUIT\r\n", wait=2)
        except OSError:
            return False

    def bring(self, program):
        """Copies a program and its libraries to where it expects them."""
        folders = {str(path.parent) for path in PROGRAMS.glob("**/*.so.*")}
        search = {"LD_LIBRARY_PATH": ":".join(sorted(folders))}
        asked = subprocess.run(["ldd", PROGRAMS / program], capture_output=True, text=True,
                               timeout=20, check=True, env=search)
        assert "not found" not in asked.stdout, asked.stdout
        for path in re.findall(r"(/\S+) \(0x", asked.stdout):
            place = self.folder / path.removeprefix(str(PROGRAMS)).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        place = self.folder / program
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROGRAMS / program, place)
        place.chmod(0o4755 if program == Exim.program else 0o755)

    def write(self, path, text, mode=0o644):
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def log(self):
        return (self.folder / "said").read_text(errors="replace")


EXIM = """\
primary_hostname = exim.test
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
log_selector = +8bitmime +pipelining +received_recipients
daemon_smtp_ports = {port}
local_interfaces = <; 127.0.0.1
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
notifier_socket =
disable_ipv6 = true
tls_advertise_hosts = *
tls_certificate = /etc/cert.pem
tls_privatekey = /etc/key.pem
auth_advertise_hosts = *
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
chunking_advertise_hosts = *
message_size_limit = {limit}
acl_smtp_mail = accept
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
retry_interval_max = 1s
begin acl
rcpt:
  defer local_parts = busy
  deny local_parts = gone
{acl}
  accept
begin routers
onward:
  driver = manualroute
  transport = smtp
  route_list = * relay.test byname
  self = send
begin transports
smtp:
  driver = smtp
  port = {onward}
  allow_localhost
{transport}
begin retry
* * F,1h,1s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{joe}}}}{{eq{{$auth3}}{{pencil}}}}}}}}
  server_set_id = $auth2
  client_send = ^joe^pencil
"""


class Exim(Caged):
    """Exim, which relays all mail to the port `onward`."""

    name, host_name, program = "Exim", "exim.test", "usr/sbin/exim4"
    words, key_mode = ("-bdf", "-q1s"), 0o640
    folders = ("etc/exim4", "var/spool/exim4", "var/log/exim4")

    def __init__(self, onward, pair, root, *, login=False, limit="50M", transport=""):
        super().__init__(pair, root)
        acl = "  require authenticated = *\n          encrypted = *\n" if login else ""
        self.settings = {"onward": onward, "acl": acl, "limit": limit, "transport": transport}

    def prepare(self):
        self.write("etc/exim4/exim4.conf", EXIM.format(port=self.port, **self.settings), 0o640)
        for path in (*self.folders[1:], "etc/exim4/exim4.conf", "etc/key.pem"):
            os.chown(self.folder / path, 101 if path.startswith("var") else 0, 101)

    def log(self):
        logs = sorted((self.folder / "var/log/exim4").iterdir())
        return super().log() + "".join(path.read_text(errors="replace") for path in logs)


SMTPD = """\
pki own cert "/etc/cert.pem"
pki own key "/etc/key.pem"
table secrets file:/etc/secrets
smtp max-message-size {limit}
queue ttl 1h
listen on 127.0.0.1 port {port} hostname opensmtpd.test tls pki own
action "onward" relay helo opensmtpd.test host {onward}
match from any for any action "onward"
"""


class OpenSmtpd(Caged):
    """OpenSMTPD, which relays all mail to `onward`: a port, or a value of its "relay host"."""

    name, host_name, program = "OpenSMTPD", "opensmtpd.test", "usr/sbin/smtpd"
    words = ("-d", "-v")
    helpers = ("usr/sbin/smtpctl", "usr/libexec/opensmtpd/mail.lmtp")
    folders = ("var/lib/opensmtpd/empty", "var/spool/smtpd")

    def __init__(self, onward, pair, root, *, limit="50M"):
        super().__init__(pair, root)
        onward = f'"smtp+notls://relay.test:{onward}"' if isinstance(onward, int) else onward
        self.settings = {"onward": onward, "limit": limit}

    def prepare(self):
        self.write("etc/secrets", "ours joe:pencil\n")
        self.write("etc/smtpd.conf", SMTPD.format(port=self.port, **self.settings), 0o600)
        (self.folder / "var/spool/smtpd").chmod(0o711)


TEXT = ("Date: Tue, 24 Nov 2026 03:00:00 +0000\r\nMessage-ID: <1@sender.test>\r\n"
        "From: a@sender.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\n").encode()
SMALL = TEXT + "gr\u00fcn\r\n.\r\n..dots\r\n\r\n.\r\n".encode()
# Larger than what is read or written at once, with lines of the maximum length.
LARGE = TEXT + ("\u00e4" * 499 + "\r\n" + ".\r\nshort\r\n" * 20).encode() * 3000


def below_traces(content, count):
    for _ in range(count):
        content = without_trace(content)
    return content


def post(port, content, mail="", rcpt="", to="b@sink.test"):
    """Sends one message with these parameters of MAIL and RCPT."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo("client.test")
        client.command_encoding = "utf-8"
        refused = client.sendmail("a@sender.test", [to], content, mail.split(), rcpt.split())
        assert not refused, refused


WISH = ("BODY=8BITMIME RET=HDRS ENVID=Q+2B1", "NOTIFY=SUCCESS ORCPT=rfc822;old@x.test")


def messages_and_reports(sink):
    messages = [content for source, _, content in sink.messages if source]
    reports = [content.decode() for source, _, content in sink.messages if not source]
    return messages, reports


@contextlib.contextmanager
def relay_before(host, root, scheme=""):
    """A relay that verifies the certificate of `host`, and logs in there."""
    with password_file("joe", "pencil") as file:
        settings = ["route.tls=must-verify", f"tls.roots={root}", f"route.auth={file}"]
        words = [word for setting in settings for word in ("--set", setting)]
        with Relay("--smart-host", f"{scheme}127.0.0.1:{host.port}", *words) as relay:
            yield relay


def has_lines(report, *lines):
    for line in lines:
        assert f"\r\n{line}".lower() in report.lower(), (line, report)


def came_as_joe(relay):
    """Two messages did; the third message is the relay's own report."""
    came = [(event.get("protocol"), event.get("user")) for event in relay.wait_event("received", 3)]
    assert sorted(came, key=str) == [("ESMTPSA", "joe")] * 2 + [(None, None)], came


def exim_behind_the_relay_gets_everything():
    """STARTTLS, AUTH, PIPELINING, 8BITMIME, DSN: mail arrives unchanged, with one report, Exim's."""
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        with Exim(sink.port, made["127.0.0.1"], root, login=True) as exim:
            with relay_before(exim, root) as relay:
                post(relay.port, SMALL, *WISH)
                sink.wait(2, 40)
                post(relay.port, LARGE, "BODY=8BITMIME")
                sink.wait(3, 40)
                for event in relay.wait_event("delivered", 2):
                    assert event["tls"] == "TLSv1.3" and "+auth-" in event["site"], event
                relay.wait_empty()
            messages, reports = messages_and_reports(sink)
            assert [below_traces(one, 2) for one in messages] == [SMALL, LARGE]
            assert len(reports) == 1, reports
            # Exim 4.96 writes the envelope identifier without decoding it.
            has_lines(reports[0], "Reporting-MTA: dns; exim.test", "Original-Envelope-Id: Q+",
                      "Original-Recipient: rfc822;old@x.test", "Status: 2.0.0")
            arrived = [line for line in exim.log().splitlines() if " <= a@sender.test " in line]
            assert len(arrived) == 2, exim.log()
            for line in arrived:
                for word in (" P=esmtpsa ", " L. ", " X=TLS1.3:", " A=plain:joe ", " M8S=8 "):
                    assert word in line, (word, line)


def listeners(implicit):
    """One with STARTTLS at the relay's port, and one with TLS from the start at `implicit`."""
    return (f'[[listener]]\naddress = "127.0.0.1:PORT"\n'
            f'[[listener]]\naddress = "127.0.0.1:{implicit}"\ntls = "implicit"\n')


def everything_passes_from_exim_through_the_relay():
    """The other direction, by BDAT and by DATA, with STARTTLS and TLS from the start: byte for byte,
    with one report, the relay's."""
    demand = ("  hosts_require_tls = *\n  hosts_require_auth = *\n  tls_verify_hosts = *\n"
              "  tls_verify_certificates = /etc/ssl/certs/ca-certificates.crt\n"
              "  tls_verify_cert_hostnames = *\n")
    for chunking, protocol in (("*", "smtp"), ("", "smtps")):
        port = free_port()
        with Sink() as sink, relay_with_users(sink=sink, text=listeners(port)) as (relay, root):
            with certificates("127.0.0.1") as (made, _):
                onward = relay.port if protocol == "smtp" else port
                transport = f"{demand}  hosts_try_chunking = {chunking}\n  protocol = {protocol}\n"
                with Exim(onward, made["127.0.0.1"], root, transport=transport) as exim:
                    post(exim.port, SMALL, *WISH)
                    sink.wait(2, 40)
                    post(exim.port, LARGE, "BODY=8BITMIME")
                    sink.wait(3, 40)
                    messages, reports = messages_and_reports(sink)
                    assert [below_traces(one, 2) for one in messages] == [SMALL, LARGE]
                    assert len(reports) == 1, reports
                    has_lines(reports[0], "Original-Envelope-Id: Q+1", "Action: relayed",
                              "Original-Recipient: rfc822;old@x.test", "Reporting-MTA: dns; ")
                    assert "exim.test" not in reports[0].split("Reporting-MTA")[1].split("\r\n")[0]
                    came_as_joe(relay)
                    wait_until("Exim says so", lambda: exim.log().count(" Completed") >= 2)
                    sent = [line for line in exim.log().splitlines() if " => b@sink.test " in line]
                    for line in sent:
                        for word in (" L ", " X=TLS1.3:", " CV=yes ", " A=plain "):
                            assert word in line, (word, line)
                        assert (" K " in line) == bool(chunking), line


def international_mail_passes_through_exim():
    """RFC 6531 to and from Exim; mail that does not need SMTPUTF8 is sent without it."""
    with certificates("127.0.0.1") as (made, root), Relay(smart_host=free_port()) as behind:
        with Exim(behind.port, made["127.0.0.1"], root) as exim:
            with Relay(smart_host=exim.port) as before:
                post(before.port, SMALL, "SMTPUTF8 BODY=8BITMIME", to="gr\u00fcn@sink.test")
                post(before.port, SMALL, "SMTPUTF8 BODY=8BITMIME", to="b@sink.test")
                before.wait_event("delivered", 2)
                events = behind.wait_event("received", 2, 30)
                log = exim.log()
            assert sorted(event["protocol"] for event in events) == ["ESMTP", "UTF8SMTP"], events
            arrived = [line for line in log.splitlines() if " <= a@sender.test " in line]
            arrived = {line.split(" for ")[1]: line for line in arrived}
            assert " P=utf8esmtps " in arrived["gr\u00fcn@sink.test"], log
            assert " P=esmtps " in arrived["b@sink.test"] and len(arrived) == 2, log
        messages = messages_of(behind)
        assert len(messages) == 2 and all(one.endswith(SMALL) for one in messages), messages
        assert any("<gr\u00fcn@sink.test>".encode() in one for one in messages), messages


def binary_mail_does_not_go_to_exim():
    """It has CHUNKING, but not BINARYMIME: mail that requires it is returned (RFC 3030)."""
    content = TEXT + b"bare\nline\rends\0"
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        with Exim(sink.port, made["127.0.0.1"], root) as exim, Relay(smart_host=exim.port) as relay:
            dialogue(relay.port, b"EHLO client.test\r\n",
                     b"MAIL FROM:<a@sender.test> BODY=BINARYMIME\r\n", b"RCPT TO:<b@sink.test>\r\n",
                     b"BDAT %d LAST\r\n" % len(content) + content, b"QUIT\r\n")
            assert relay.wait_event("bounced")[0]["status"] == "5.6.3"
            assert sink.wait()[0][:2] == ("", ["a@sender.test"])


def refusals_of_exim_reach_the_right_recipients():
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        with Exim(sink.port, made["127.0.0.1"], root) as exim, Relay(smart_host=exim.port) as relay:
            send(relay.port, to=["b@sink.test", "busy@sink.test", "gone@sink.test", "c@sink.test"])
            # The two messages, and the report to the sender.
            delivered = {one["to"] for one in relay.wait_event("delivered", 3)}
            assert delivered == {"a@sender.test", "b@sink.test", "c@sink.test"}, delivered
            assert relay.wait_event("deferred")[0]["to"] == "busy@sink.test"
            bounced = relay.wait_event("bounced")[0]
            assert (bounced["to"], bounced["stage"]) == ("gone@sink.test", "rcpt"), bounced
            # The message and the report.
            sink.wait(2)
            assert [one["to"] for one in relay.queue()] == ["busy@sink.test"], relay.queue()


def a_message_that_is_too_large_is_refused_before_it_is_sent():
    """SIZE: each knows the limit of the other, and returns larger messages."""
    with certificates("127.0.0.1") as (made, root):
        for program in (Exim, OpenSmtpd):
            with Sink() as sink, program(sink.port, made["127.0.0.1"], root, limit="100K") as host:
                with Relay(smart_host=host.port) as relay:
                    post(relay.port, LARGE, "BODY=8BITMIME")
                    event = relay.wait_event("bounced")[0]
                    assert event["stage"] == "mail" and event["status"].startswith("5."), event
                    # Its report is small enough.
                    assert sink.wait()[0][0] == ""
        small = ["--set", "session.message_bytes_max=100KiB"]
        with Sink() as sink, Relay(*small, smart_host=sink.port) as relay:
            with Exim(relay.port, made["127.0.0.1"], root) as exim:
                post(exim.port, LARGE, "BODY=8BITMIME")
                # The report of Exim passes through the relay.
                _, to, report = sink.wait(1, 40)[0]
                assert to == ["a@sender.test"] and b"\r\nAction: failed\r\n" in report, report
                assert " ** b@sink.test " in exim.log(), exim.log()


def many_messages_of_exim_and_opensmtpd_arrive():
    with contextlib.ExitStack() as stack:
        made, root = stack.enter_context(certificates("127.0.0.1"))
        sink = stack.enter_context(Sink())
        relay = stack.enter_context(Relay(smart_host=sink.port))
        for number, program in enumerate((Exim, OpenSmtpd), 1):
            with program(relay.port, made["127.0.0.1"], root) as host:
                with smtplib.SMTP("127.0.0.1", host.port, timeout=60) as client:
                    for message in range(100):
                        to = [f"r{message}-{n}@sink.test" for n in range(3)]
                        client.sendmail("a@sender.test", to, SMALL, ["BODY=8BITMIME"])
                relay.wait_event("delivered", 300 * number, 60)
        relay.wait_empty()
        had = [one for _, to, _ in sink.messages for one in to]
        assert len(had) == 600 and len(set(had)) == 300, len(had)
        assert all(content.endswith(SMALL) for _, _, content in sink.messages)


def opensmtpd_behind_the_relay_gets_what_it_supports():
    """8BITMIME and DSN, and STARTTLS where it works: version 6.8 offers it, but with OpenSSL 3 each
    handshake fails; then mail is sent in the clear if that is allowed, or else waits. It has AUTH
    only with TLS, so AUTH is tested only with Exim."""
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        with OpenSmtpd(sink.port, made["127.0.0.1"], root) as host:
            with smtplib.SMTP("127.0.0.1", host.port, timeout=20) as client:
                try:
                    client.starttls(context=ssl.create_default_context(cafile=root))
                    works = True
                except ssl.SSLError:
                    works = False
            with Relay(smart_host=host.port) as relay:
                post(relay.port, SMALL, *WISH)
                sink.wait(2, 40)
                post(relay.port, LARGE, "BODY=8BITMIME")
                sink.wait(3, 40)
                for event in relay.wait_event("delivered", 2):
                    assert ("tls" in event) == works, event
                relay.wait_empty()
            messages, reports = messages_and_reports(sink)
            assert [below_traces(one, 2) for one in messages] == [SMALL, LARGE]
            assert len(reports) == 1, reports
            has_lines(reports[0], "Reporting-MTA: dns; opensmtpd.test")
            with Relay("--set", "route.tls=must", smart_host=host.port) as relay:
                post(relay.port, SMALL)
                event = relay.wait_event("delivered" if works else "deferred")[0]
                assert works or (event["status"], event["stage"]) == ("4.7.5", "tls"), event


def opensmtpd_behind_the_relay_gets_nothing_that_it_does_not_support():
    """It has no SMTPUTF8: mail that needs it is returned, other mail arrives."""
    with certificates("127.0.0.1") as (made, root), Sink() as sink:
        with OpenSmtpd(sink.port, made["127.0.0.1"], root) as host:
            with Relay(smart_host=host.port) as relay:
                post(relay.port, SMALL, "SMTPUTF8 BODY=8BITMIME", to="gr\u00fcn@sink.test")
                post(relay.port, SMALL, "SMTPUTF8 BODY=8BITMIME")
                event = relay.wait_event("bounced")[0]
                assert event["status"] == "5.6.7", event
                sink.wait(1)
                wait_until("the message arrives", lambda: any(
                    to == ["b@sink.test"] and content.endswith(SMALL)
                    for _, to, content in sink.messages))


def everything_passes_from_opensmtpd_through_the_relay():
    """TLS from the start and by STARTTLS, both verified, AUTH, 8BITMIME and DSN: byte for byte, with
    the relay's report."""
    port = free_port()
    for scheme in ("smtp+tls", "smtps"):
        with Sink() as sink, relay_with_users(sink=sink, text=listeners(port)) as (relay, root):
            at = relay.port if scheme == "smtp+tls" else port
            onward = f'"{scheme}://ours@relay.test:{at}" auth <secrets> tls'
            with certificates("127.0.0.1") as (made, _):
                with OpenSmtpd(onward, made["127.0.0.1"], root) as host:
                    post(host.port, SMALL, *WISH)
                    sink.wait(2, 40)
                    post(host.port, LARGE, "BODY=8BITMIME")
                    sink.wait(3, 40)
                    messages, reports = messages_and_reports(sink)
                    assert [below_traces(one, 2) for one in messages] == [SMALL, LARGE]
                    assert len(reports) == 1, reports
                    has_lines(reports[0], "Reporting-MTA: dns; ", "Action: relayed",
                              "Original-Recipient: rfc822;old@x.test")
                    assert "Reporting-MTA: dns; opensmtpd.test" not in reports[0]
                    came_as_joe(relay)


TESTS = [
    exim_behind_the_relay_gets_everything,
    everything_passes_from_exim_through_the_relay,
    international_mail_passes_through_exim,
    binary_mail_does_not_go_to_exim,
    refusals_of_exim_reach_the_right_recipients,
    a_message_that_is_too_large_is_refused_before_it_is_sent,
    many_messages_of_exim_and_opensmtpd_arrive,
    opensmtpd_behind_the_relay_gets_what_it_supports,
    opensmtpd_behind_the_relay_gets_nothing_that_it_does_not_support,
    everything_passes_from_opensmtpd_through_the_relay,
]

if os.environ.get("RINGPOST_CI_NO_INSTALL") == "1" and not all(
        (PROGRAMS / one.program).exists() for one in (Exim, OpenSmtpd)):
    print(f"skipped {len(TESTS)} tests: Exim and OpenSMTPD are not in {PROGRAMS}", flush=True)
    TESTS = []

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
