"""Postfix as next hop, with every extension that both have. Postfix must be started as root."""

import os
import pathlib
import shutil
import subprocess
import tempfile

from harness import Relay, Sink, dialogue, free_port, main, need, wait_until

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:{behind}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtputf8_enable = yes
smtp_host_lookup = native
disable_dns_lookups = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
"""

MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A separate Postfix that relays all mail to the port `behind`."""

    def __init__(self, behind):
        need("postfix", "postconf")
        assert os.geteuid() == 0, "Postfix must be started as root"
        self.port, self.behind = free_port(), behind

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-postfix-"))
        self.folder.chmod(0o755)
        config = self.folder / "config"
        for path in (config, self.folder / "queue", self.folder / "data"):
            path.mkdir()
        shutil.chown(self.folder / "data", "postfix")
        (self.folder / "data").chmod(0o700)
        asked = subprocess.run(["postconf", "-d", "-h", "daemon_directory"], capture_output=True,
                               text=True, timeout=20, check=True, cwd="/")
        names = {"folder": self.folder, "daemons": asked.stdout.strip(), "behind": self.behind}
        (config / "main.cf").write_text(MAIN_CF.format(**names))
        (config / "master.cf").write_text(MASTER_CF.format(port=self.port))
        code = self.call("start")
        assert code == 0, (self.folder / "call.log").read_text()
        wait_until("Postfix listens", self._listens)
        return self

    def __exit__(self, *_):
        if self.call("stop") != 0:
            self.call("abort")
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, verb):
        """Uses Postfix's own script; Postfix becomes a daemon."""
        with open(self.folder / "call.log", "ab") as log:
            words = ["postfix", "-c", str(self.folder / "config"), verb]
            return subprocess.run(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=60,
                                  check=False).returncode

    def _listens(self):
        try:
            return b"220" in dialogue(self.port, b"QUIT\r\n", wait=2)
        except OSError:
            return False

    def log(self):
        return (self.folder / "postfix.log").read_text(errors="replace")


def postfix_behind_the_relay_sends_the_report():
    """RFC 3461 5.2.1: the DSN parameters are passed on, so there is one report, from Postfix."""
    with Sink() as sink, Postfix(sink.port) as postfix, Relay(smart_host=postfix.port) as relay:
        sent = dialogue(relay.port, b"EHLO client.test\r\n",
                        b"MAIL FROM:<a@sender.test> RET=HDRS ENVID=Q+2B1 BODY=8BITMIME\r\n",
                        b"RCPT TO:<b@sink.test> NOTIFY=SUCCESS ORCPT=rfc822;old@x.test\r\n", b"DATA\r\n",
                        "Subject: x\r\n\r\ngr\u00fcn\r\n.\r\n".encode(), b"QUIT\r\n")
        assert sent.count(b"\r\n250 ") == 4, sent
        sink.wait(2)
        messages = [content for source, _, content in sink.messages if source]
        reports = [content.decode() for source, _, content in sink.messages if not source]
        assert len(messages) == 1 and "gr\u00fcn".encode() in messages[0], messages
        relay.wait_empty()
        assert len(reports) == 1, reports
        for line in ("Reporting-MTA: dns; postfix.test", "Original-Envelope-Id: Q+1",
                     "Original-Recipient: rfc822;old@x.test", "Action: relayed"):
            assert f"\r\n{line}" in reports[0], (line, reports[0])


def postfix_behind_the_relay_accepts_international_mail():
    """RFC 6531: SMTPUTF8 is used when necessary, and only then; a large message for many is delivered too."""
    with Sink() as sink, Postfix(sink.port) as postfix, Relay(smart_host=postfix.port) as relay:
        for address, subject in (("gr\u00fcn@sink.test", "x"), ("b@sink.test", "x"), ("c@sink.test", "gr\u00fcn")):
            sent = dialogue(relay.port, b"EHLO client.test\r\n", b"MAIL FROM:<a@sender.test> SMTPUTF8\r\n",
                            f"RCPT TO:<{address}>\r\n".encode(), b"DATA\r\n",
                            f"Subject: {subject}\r\n\r\nx\r\n.\r\n".encode(), b"QUIT\r\n")
            assert sent.count(b"\r\n250 ") == 4, sent
        relay.wait_event("delivered", 3)
        # The next hop of Postfix has no SMTPUTF8, so Postfix relays only the message that does not need it.
        messages = sink.wait(1)
        assert any(to == ["b@sink.test"] for _, to, _ in messages), messages
        for address in ("gr\u00fcn@sink.test", "c@sink.test"):
            wait_until(f"Postfix bounces {address}", lambda: any(
                f"to=<{address}>" in line and "status=bounced (SMTPUTF8 is required" in line
                for line in postfix.log().splitlines()))


TESTS = [
    postfix_behind_the_relay_sends_the_report,
    postfix_behind_the_relay_accepts_international_mail,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
