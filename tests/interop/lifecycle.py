"""Start and stop: errors say what to do, and the relay stops on request."""

import contextlib
import ctypes
import os
import pathlib
import resource
import signal
import smtplib
import socket
import struct
import subprocess
import tempfile
import time

from clients import send
from harness import BINARY, ROOT, Relay, Sink, free_port, main, wait_until


def start_fails(*flags, says, before=None, env=None):
    """Starts the relay, which must end by itself with an error that has every text of `says`."""
    done = subprocess.run(
        [BINARY, "serve", *flags], capture_output=True, text=True, timeout=20, check=False,
        preexec_fn=before, env=dict(os.environ, **(env or {})),
    )
    text = done.stderr + done.stdout
    assert done.returncode != 0, text
    for word in says:
        assert word in text, (word, text)
    assert "panicked" not in text, text


def own_flags(folder):
    return ["--spool", f"{folder}/spool", "--listen", f"127.0.0.1:{free_port()}", "--cores", "1"]


def a_port_in_use_is_named():
    with tempfile.TemporaryDirectory() as folder, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        flags = ["--spool", f"{folder}/spool", "--listen", f"127.0.0.1:{port}", "--cores", "1"]
        start_fails(*flags, says=[f"127.0.0.1:{port}", "listen"])


def another_instance_on_the_spool_is_named():
    with Relay(cores="1") as relay:
        start_fails(
            "--spool", str(relay.spool), "--listen", f"127.0.0.1:{free_port()}", "--cores", "1",
            says=["spool", str(relay.process.pid)],
        )
        start_fails(
            "--spool", str(relay.spool) + "2", "--listen", f"127.0.0.1:{relay.port}", "--cores",
            "1", says=["listen", str(relay.port)],
        )


def a_spool_that_cannot_be_written_is_named():
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "file").write_text("")
        start_fails(
            "--spool", f"{folder}/file", "--listen", f"127.0.0.1:{free_port()}", says=["file"]
        )


def a_mistake_in_the_path_of_the_spool_creates_no_folders():
    with tempfile.TemporaryDirectory() as folder:
        above = f"{folder}/splool"
        wrong = ["--spool", f"{above}/ringpost", "--listen", "127.0.0.1:0", "--cores", "1"]
        start_fails(*wrong, says=[f"{above}/ringpost", f"the folder above it, {above}, does not exist"])
        right = ["--spool", f"{folder}/spool", "--listen", "127.0.0.1:0", "--cores", "1"]
        for key in ("control.socket", "event.file"):
            start_fails(*right, "--set", f"{key}={above}/a/b", says=[f"the folder above it, {above},"])
        message = pathlib.Path(folder, "a.eml")
        message.write_text("Subject: x\n\nx\n")
        plain = ["import", str(message), "--from", "a@b.test", "--to", "c@d.test"]
        for words in ([*plain, *wrong], ["verify", *wrong], ["export", "--to", f"{above}/out", *right]):
            done = subprocess.run(
                [BINARY, "spool", *words], capture_output=True, text=True, timeout=20, check=False,
            )
            assert done.returncode == 2 and above in done.stderr and "SMTP" not in done.stderr, done
        assert not pathlib.Path(above).exists()


def shards_that_are_not_pinned_may_be_more_than_the_cpus():
    shards = len(os.sched_getaffinity(0)) + 2
    few = ["--set", "core_default.connections_max=200", "--set", "pool.connections_max=200"]
    free = ["--set", "pin=false", *few]
    with Sink() as sink, Relay(*free, cores=str(shards), smart_host=sink.port) as relay:
        for _ in range(10):
            send(relay.port)
        sink.wait(10)
        relay.wait_empty()
        assert len(list(relay.spool.glob("shard-*"))) == shards
    start_fails("--cores", str(shards), says=["too many", f"at most {shards - 2} here", "pin = false"])


def a_bad_configuration_is_reported_with_line_and_remedy():
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("[retry]\nfirst = '5m'\nfrist = '2s'\n")
        file.flush()
        start_fails("--config", file.name, says=[file.name, "3", "frist", "first"])
    start_fails("--set", "retry.frist=2s", says=["retry.frist", "retry.first"])
    start_fails("--cores", "4000", says=["cores"])


def the_annotated_example_is_a_valid_configuration():
    done = subprocess.run(
        [BINARY, "check", "--config", str(ROOT / "tuning" / "ringpost.toml")],
        capture_output=True, text=True, timeout=20, check=False,
    )
    assert done.returncode == 0, done.stderr


def forbidden_io_uring_is_reported():
    """A seccomp filter that answers EPERM to io_uring_setup (425), as container runtimes do."""

    def forbid():
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        load, jump, ret = 0x20, 0x15, 0x06
        program = b"".join(
            struct.pack("HBBI", *step)
            for step in (
                (load, 0, 0, 0), (jump, 0, 1, 425), (ret, 0, 0, 0x00050000 | 1),
                (ret, 0, 0, 0x7FFF0000),
            )
        )
        buffer = ctypes.create_string_buffer(program)
        filter_ = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
        assert libc.prctl(22, 2, filter_, 0, 0) == 0, "seccomp"

    with tempfile.TemporaryDirectory() as folder:
        start_fails(*own_flags(folder), before=forbid, says=["io_uring", "seccomp"])


def too_little_locked_memory_is_reported():
    """As an ordinary user; root is exempt from the limit."""

    def shrink():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * 1024, 64 * 1024))
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        binary = pathlib.Path(folder, "ringpost")
        binary.write_bytes(pathlib.Path(BINARY).read_bytes())
        binary.chmod(0o755)
        done = subprocess.run(
            [str(binary), "serve", *own_flags(folder)], capture_output=True, text=True, timeout=20,
            check=False, preexec_fn=shrink, cwd=folder,
        )
        text = done.stderr + done.stdout
        assert done.returncode != 0 and "MEMLOCK" in text.upper(), text
        assert "panicked" not in text, text


def too_few_open_files_are_reported():
    def shrink():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with tempfile.TemporaryDirectory() as folder:
        start_fails(*own_flags(folder), before=shrink, says=["open files", "256", "needs"])


def sigterm_lets_a_transaction_finish():
    with Sink() as sink, Relay(smart_host=sink.port, cores="1") as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.docmd("MAIL FROM:<a@sender.test>")
            client.docmd("RCPT TO:<b@sink.test>")
            assert client.docmd("DATA")[0] == 354
            client.send(b"Subject: half\r\n\r\n")
            relay.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert relay.process.poll() is None, "waits for the transaction"
            code, said, errors = relay.command("health")
            assert code == 1 and not said and "shard 0: the relay is stopping" in errors, errors
            client.send(b"rest\r\n.\r\n")
            code, text = client.getreply()
            assert code == 250, (code, text)
            code, text = client.getreply()
            assert code == 421, (code, text)
        assert relay.process.wait(10) == 0
        relay.start()
        sink.wait()


def an_idle_session_gets_421_when_the_relay_stops():
    with Relay(cores="1") as relay:
        with socket.create_connection(("127.0.0.1", relay.port), 5) as peer:
            peer.settimeout(5)
            assert peer.recv(100).startswith(b"220")
            began = time.monotonic()
            relay.process.send_signal(signal.SIGTERM)
            assert peer.recv(100).startswith(b"421 4.3.2")
            assert relay.process.wait(10) == 0 and time.monotonic() - began < 5


def a_second_sigterm_stops_at_once():
    with Relay(cores="1") as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            client.docmd("MAIL FROM:<a@sender.test>")
            client.docmd("RCPT TO:<b@sink.test>")
            client.docmd("DATA")
            relay.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert relay.process.poll() is None
            relay.process.send_signal(signal.SIGTERM)
            relay.process.wait(3)
            client.close()
        wait_until("the log is read", lambda: b"open transactions are aborted" in relay.log)


def a_second_sigterm_without_open_transactions_aborts_none():
    with Relay(cores="2") as relay:
        relay.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(10) == 0
        wait_until("the log is read", lambda: b"stopped" in relay.log)
        assert b"aborted" not in relay.log, relay.log


def the_stop_is_bounded():
    with Relay("--set", "control.stop_within=1s", cores="1") as relay:
        with socket.create_connection(("127.0.0.1", relay.port), 5) as peer:
            peer.recv(100)
            peer.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@c.test>\r\nDATA\r\n")
            time.sleep(0.3)
            began = time.monotonic()
            assert relay.stop() == 0
            assert 0.8 < time.monotonic() - began < 7


def the_default_command_serves():
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [BINARY, "--cores", "1", "--listen", f"127.0.0.1:{free_port()}"], cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not pathlib.Path(folder, "ringpost-spool", "control.sock").exists():
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            done = subprocess.run(
                [BINARY, "queue", "list"], cwd=folder, capture_output=True, text=True, timeout=10,
                check=False,
            )
            assert done.returncode == 0 and "empty" in done.stdout, done
        finally:
            process.terminate()
            assert process.wait(10) == 0


def diagnostics_and_listing_work_while_mail_flows():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        for _ in range(20):
            send(relay.port)
            relay.queue()
        sink.wait(20)


def a_listing_says_what_it_leaves_out():
    with Relay(smart_host=free_port(), retry_first="100s", cores="1") as relay:
        for to in ("a@one.test", "b@one.test", "c@two.test"):
            send(relay.port, to=[to])
        # A dead site defers one of them; the others are ready, and are listed too.
        relay.wait_event("deferred")
        wait_until("all are listed", lambda: len(relay.queue()) == 3)
        _, output, errors = relay.command("queue", "list", "--limit", "2", "--json")
        assert len(output.splitlines()) == 2 and "--limit 0 shows all" in errors, (output, errors)
        _, output, errors = relay.command("queue", "list", "--limit", "3", "--json")
        assert len(output.splitlines()) == 3 and not errors, (output, errors)
        _, output, _ = relay.command("queue", "list", "--domain", "three.test")
        assert "empty" not in output and "three.test" in output, output


def a_queue_that_cannot_be_read_is_not_called_empty():
    with Relay(smart_host=free_port(), retry_first="100s", cores="1") as relay:
        send(relay.port)
        relay.wait_event("deferred")
        elsewhere = ["--set", f"control.socket={relay.spool}/nowhere.sock"]
        code, output, errors = relay.command("queue", "list", *elsewhere)
        assert code == 1 and str(relay.process.pid) in errors, (output, errors)
        assert "no relay runs" not in errors, errors
        relay.stop()
        code, output, errors = relay.command("queue", "show", "0000000000000")
        assert code == 1 and "empty" not in output and "not in the queue" in errors, output


def a_named_pipe_as_configuration_holds_up_neither_mail_nor_a_stop():
    with tempfile.TemporaryDirectory() as folder, Sink() as sink:
        path = pathlib.Path(folder, "r.toml")
        path.write_text("")
        with Relay("--config", str(path), smart_host=sink.port) as relay:
            path.unlink()
            os.mkfifo(path)
            relay.process.send_signal(signal.SIGHUP)
            wait_until("the log says why", lambda: b"it is a named pipe" in relay.log)
            send(relay.port, b"Subject: x\r\n\r\nx\r\n")
            sink.wait(1)
            assert relay.stop() == 0


TESTS = [
    a_named_pipe_as_configuration_holds_up_neither_mail_nor_a_stop,
    a_port_in_use_is_named, another_instance_on_the_spool_is_named,
    a_spool_that_cannot_be_written_is_named, a_bad_configuration_is_reported_with_line_and_remedy,
    a_mistake_in_the_path_of_the_spool_creates_no_folders,
    shards_that_are_not_pinned_may_be_more_than_the_cpus,
    the_annotated_example_is_a_valid_configuration, forbidden_io_uring_is_reported,
    too_little_locked_memory_is_reported, too_few_open_files_are_reported, sigterm_lets_a_transaction_finish,
    an_idle_session_gets_421_when_the_relay_stops, a_second_sigterm_stops_at_once,
    a_second_sigterm_without_open_transactions_aborts_none,
    a_listing_says_what_it_leaves_out, a_queue_that_cannot_be_read_is_not_called_empty,
    the_stop_is_bounded, the_default_command_serves, diagnostics_and_listing_work_while_mail_flows,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
