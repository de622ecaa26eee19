"""The machine under the relay: a full disk, one that fails, damaged files, stops at bad moments.

The tests of disks mount small file systems on loop devices, which only root may."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import smtplib
import struct
import subprocess
import tempfile
import threading
import time

from clients import send
from hostile import time_used
from harness import Relay, Sink, free_port, main, need, wait_until

# Small segments, so that small disks hold some: a message may have 7/8 of one.
SMALL = ("--set", "spool.segment_bytes=2MiB", "--set", "session.message_bytes_max=1MiB",
         "--set", "spool.stream_threshold=64KiB", "--set", "session.recipients_max=100",
         "--set", "retry.max=2s")
# FS_IOC_SHUTDOWN with NOLOGFLUSH: every write and sync fails with EIO from then on.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


@contextlib.contextmanager
def small_disk(mebibytes):
    """The folder of a fresh ext4."""
    need("mkfs.ext4", "mount", "umount")
    assert os.geteuid() == 0, "only root can mount"
    with tempfile.TemporaryDirectory() as folder:
        image, at = pathlib.Path(folder, "image"), pathlib.Path(folder, "disk")
        at.mkdir()
        with image.open("wb") as file:
            file.truncate(mebibytes * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", str(at)], check=True)


def text(number, size):
    return b"Subject: %d\r\n\r\n" % number + (b"y" * 70 + b"\r\n") * (size // 72)


def attempt(client, number, size=30_000):
    """The reply to one message."""
    client.ehlo_or_helo_if_needed()
    client.docmd("MAIL FROM:<a@sender.test>")
    client.docmd("RCPT TO:<b@sink.test>")
    code, words = client.docmd("DATA")
    if code != 354:
        client.rset()
        return code, words
    client.send(text(number, size) + b".\r\n")
    return client.getreply()


def fill(relay, count_max=10_000):
    """Sends until there is no space: how many were taken, and the refusal."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        for number in range(count_max):
            code, words = attempt(client, number)
            if code != 250:
                return number, code, words
    raise AssertionError("the disk was never full")


def a_full_disk_refuses_mail_delivers_what_is_there_and_recovers():
    port = free_port()
    with small_disk(100) as disk, Relay(*SMALL, spool=disk / "spool", smart_host=port) as relay:
        taken, code, words = fill(relay)
        assert code == 452 and words.startswith(b"4.3.1"), (code, words)
        assert taken > 1000, taken
        wait_until("all wait", lambda: len(relay.queue()) == taken)
        again, code, _ = fill(relay)
        assert again < 100 and code == 452, "still full"
        code, _, errors = relay.command("health")
        assert code == 1 and "no space on the disk" in errors, (code, errors)
        taken += again
        # Filled to the last block by another program: not even the event log can be written.
        with open(disk / "other", "wb") as other, contextlib.suppress(OSError):
            while other.write(b"x" * 65536):
                other.flush()
        with Sink(port=port) as sink:
            sink.wait(taken, 60)
            relay.wait_empty(30)
            (disk / "other").unlink()
            wait_until("mail is taken again", lambda: is_taken(relay), 20)
            sink.wait(taken + 1)
            relay.wait_empty()
            wait_until("health says so", lambda: relay.command("health")[0] == 0)
            print(f"       {taken} messages filled the disk")
        assert relay.stop() == 0
        relay.start()
        assert not relay.queue()


def is_taken(relay):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        return attempt(client, 0)[0] == 250


def fill_all(relay, size):
    """Sends until no shard has space: how many were taken."""
    taken, full = 0, 0
    while full < 8:
        # The kernel chooses the shard of a connection.
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            number = taken
            while attempt(client, taken, size)[0] == 250:
                taken += 1
        full = full + 1 if taken < number + 20 else 0
    return taken


def fewer_shards_on_a_full_disk_start_when_there_is_space_and_double_nothing():
    with small_disk(96) as disk, Sink(reply=lambda step, address: "451 4.2.0 Later") as sink:
        (disk / "other").write_bytes(b"x" * (48 << 20))
        with Relay(*SMALL, spool=disk / "spool", smart_host=sink.port) as relay:
            taken = fill_all(relay, 20_000)
            assert relay.stop() == 0
            sink.reply = lambda step, address: None
            relay.flags[relay.flags.index("--cores") + 1] = "1"
            for _ in range(2):
                try:
                    relay.start()
                    raise RuntimeError("it started")
                except AssertionError as error:
                    assert "free some disk space, then start again" in str(error), error
            assert not sink.messages, "nothing is sent before all of it has moved"
            (disk / "other").unlink()
            relay.start()
            relay.wait_empty(60)
            numbers = {content.rsplit(b"Subject: ", 1)[1].split()[0] for *_, content in sink.messages}
            assert len(numbers) == len(sink.messages) == taken, (len(numbers), taken)


def failing(size, reply, *flags):
    """A disk full of mail that can only fail empties itself while clients go on sending, and over a
    stop; each recipient ends once, and its sender gets one report."""
    with small_disk(64) as disk, Sink(reply=lambda step, address: "451 4.2.0 Later") as sink:
        # The event log is on the same disk.
        flags = (*SMALL, "--set", "retry.max=30s", "--set", "event.rotate_bytes=1MiB",
                 "--set", "event.keep=1", *flags)
        with Relay(*flags, spool=disk / "spool", smart_host=sink.port, retry_first="10s") as relay:
            taken = fill_all(relay, size)
            assert taken > 500, taken
            sink.reply = lambda step, address: (
                reply if step == "rcpt" and address == "b@sink.test" else None)
            begin = time.monotonic()
            sink.wait(taken // 10, 120)
            relay.restart()
            # Clients that do not give up do not take the space that reports need.
            over = threading.Event()
            more = []

            def send_on():
                while not over.wait(0.2):
                    with contextlib.suppress(OSError, smtplib.SMTPException):
                        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                            while attempt(client, taken + len(more), size)[0] == 250:
                                more.append(taken + len(more))
                                if len(more) > taken // 2:
                                    return

            client = threading.Thread(target=send_on)
            client.start()
            try:
                sink.wait(taken, 240)
            finally:
                over.set()
                client.join()
            sink.wait(taken + len(more), 240)
            relay.wait_empty(60)
            took = time.monotonic() - begin
            numbers = [content.rsplit(b"Subject: ", 1)[1].split()[0]
                       for sender, _, content in sink.messages if sender == ""]
            assert len(numbers) == len(sink.messages), "all that comes is a report"
            assert len(set(numbers)) == taken + len(more), (len(set(numbers)), taken, len(more))
            assert len(numbers) == len(set(numbers)), "recipients were reported twice"
            assert is_taken(relay), "mail is taken again"
            print(f"       {taken} messages filled the disk, {len(more)} came later, {took:.0f} s")


def a_full_disk_of_mail_that_is_refused_empties_itself():
    failing(30_000, "550 5.1.1 No such user")


def a_full_disk_of_mail_that_expires_empties_itself():
    failing(8_000, "451 4.2.0 Later", "--set", "retry.expire=1m")


def a_disk_that_fails_stops_the_intake_and_loses_nothing():
    port = free_port()
    with small_disk(100) as disk:
        with Relay(*SMALL, spool=disk / "spool", smart_host=port, cores="1") as relay:
            for number in range(20):
                send(relay.port, text(number, 2000))
            wait_until("all wait", lambda: len(relay.queue()) == 20)
            shut_down(disk)
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
                code, words = attempt(client, 20)
                assert code == 451, (code, words)
                code, words = attempt(client, 21)
                assert code == 451, (code, words)
            wait_until("the log says so", lambda: b"the spool has failed" in relay.log)
            # Nothing is sent of which it could not be written down that it was.
            with Sink(port=port) as sink:
                used = time_used(relay.process.pid)
                time.sleep(4)
                assert not sink.messages and time_used(relay.process.pid) - used < 1
            relay.stop()
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(
            ["mount", "-o", "loop", str(disk.parent / "image"), str(disk)], check=True
        )
        with Sink(port=port) as sink:
            with Relay(*SMALL, spool=disk / "spool", smart_host=port, cores="1") as relay:
                sink.wait(20, 30)
                relay.wait_empty()
                assert len(sink.messages) == 20
                send(relay.port)


def shut_down(disk):
    folder = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(folder)


def queued(relay, count, size=2000):
    """Puts `count` messages into the queue, whose next hop is down; their ids."""
    for number in range(count):
        send(relay.port, text(number, size))
    wait_until("all wait", lambda: len(relay.queue()) == count)
    return {entry["id"] for entry in relay.queue()}


def segments(relay):
    return sorted(relay.spool.glob("shard-*/*.seg"))


def damaged(damage, lost_max, count=60):
    """A relay is killed, `damage(segments)` is done to its spool; it starts, and delivers the rest."""
    port = free_port()
    with Relay(*SMALL, smart_host=port, cores="1") as relay:
        before = queued(relay, count, 60_000)
        relay.kill()
        assert len(segments(relay)) > 1
        damage(segments(relay))
        relay.start()
        assert {entry["id"] for entry in relay.queue()} <= before
        # Damage to a record that an index vouches for is found when the record is read.
        with Sink(port=port) as sink:
            relay.wait_empty()
            lost = count - len(sink.messages)
            assert lost <= lost_max, lost
        relay.restart()
        assert not relay.queue()
        send(relay.port)
        return lost, relay.log


def corrupt_bytes_cost_one_message_and_are_set_aside():
    def corrupt(files):
        with open(files[0], "r+b") as file:
            file.seek(300_000)
            file.write(b"\xff" * 16)

    lost, log = damaged(corrupt, 1)
    assert lost == 1 and b"set aside" in log and b"00000001.seg" in log, (lost, log)


def damage_in_a_large_message_ends_it_and_harms_no_other():
    """After a kill a start finds it; of a sealed segment the content is only read as it is sent."""
    for end in ("kill", "stop"):
        marker = b"the piece that is damaged"
        port = free_port()
        with Relay(*SMALL, smart_host=port, cores="1") as relay:
            before = queued(relay, 5)
            send(relay.port, text(5, 900_000) + marker + b"\r\n")
            wait_until("all wait", lambda: len(relay.queue()) == 6)
            getattr(relay, end)()
            (path,) = [path for path in segments(relay) if marker in path.read_bytes()]
            with open(path, "r+b") as file:
                file.seek(path.read_bytes().index(marker))
                file.write(b"\xff" * 8)
            relay.start()
            with Sink(port=port) as sink:
                relay.wait_empty()
                sink.wait(len(before))
            wait_until("the log says so", lambda: b"corrupt record set aside" in relay.log)
            assert len(sink.messages) == len(before)
            assert list(relay.spool.glob("shard-*/quarantine/*.bad"))
            wait_until("an event says so", lambda: relay.events("set-aside"))


def what_is_damaged_is_called_so_and_shown_where_it_went():
    port = free_port()
    with Relay(smart_host=port, cores="1", retry_first="100s") as relay:
        with Sink(lambda step, _: "450 4.2.1 busy" if step == "rcpt" else None, port=port):
            for number in range(3):
                send(relay.port, text(number, 2000), source=f"a{number}@sender.test")
            relay.wait_event("deferred", 3)
        id_, = [entry["id"] for entry in relay.queue() if entry["from"] == "a1@sender.test"]
        assert relay.stop() == 0
        (path,) = [path for path in segments(relay) if b"Subject: 1\r\n" in path.read_bytes()]
        with open(path, "r+b") as file:
            file.seek(path.read_bytes().index(b"Subject: 1\r\n"))
            file.write(b"\xff" * 4)

        def listed():
            entries = {entry["id"]: entry for entry in relay.queue()}
            assert len(entries) == 3 and entries[id_]["state"] == "damaged", entries
            assert entries[id_]["from"] == "?" and f"message {id_} is not intact" in entries[id_]["trouble"]
            _, output, _ = relay.command("queue", "list")
            line = next(line for line in output.splitlines() if line.startswith(id_))
            assert "damaged" in line and "? -> ?@sink.test" in line and "4.2.1" not in line, line
            _, output, _ = relay.command("queue", "show", id_)
            assert "damaged on the disk" in output and "<>" not in output, output

        listed()
        relay.start()
        listed()
        with Sink(port=port), smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
            client.ehlo()
            assert client.docmd("ETRN", "sink.test")[0] // 100 == 2
            relay.wait_empty()
        (copy,) = relay.spool.glob("shard-0/quarantine/*.bad")
        event, = relay.wait_event("set-aside")
        assert event["id"] == id_ and str(copy) in event["text"], event

        def gone():
            code, output, errors = relay.command("queue", "show", id_)
            assert code == 1 and not output and f"what is left of it is in {copy} " in errors, errors
            code, _, errors = relay.command("queue", "show", "0" * 13)
            assert code == 1 and f"{relay.spool}/events.jsonl" in errors, errors

        gone()
        assert relay.stop() == 0
        gone()


def a_truncated_a_missing_and_a_foreign_file_do_not_keep_the_rest_from_going_out():
    def truncate(files):
        os.truncate(files[0], 1_000_000)

    def empty(files):
        os.truncate(files[0], 0)

    def delete(files):
        files[0].unlink()

    def scribble(files):
        folder = files[0].parent
        for name in ("00009999.seg", "notes.txt", "00000002.seg~", "0000000x.seg"):
            (folder / name).write_bytes(os.urandom(50_000))
        (folder / "00008888.seg").write_bytes(b"")

    def overwrite(files):
        files[0].write_bytes(os.urandom(files[0].stat().st_size))

    for damage, lost_max in (
            (truncate, 40), (empty, 40), (delete, 40), (scribble, 0), (overwrite, 40)):
        lost, log = damaged(damage, lost_max)
        print(f"       {damage.__name__}: {lost} of 60 lost")
        if damage in (truncate, empty):
            assert b"the file was cut short; mail that was there is lost" in log, log
        if damage in (scribble, overwrite):
            assert b"this is no segment" in log, log


def two_restarts_a_moved_spool_and_other_cores_lose_nothing():
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        spool = pathlib.Path(folder, "spool")
        with Relay(*SMALL, spool=spool, smart_host=port) as relay:
            before = queued(relay, 40)
            for _ in range(2):
                relay.restart()
            for _ in range(5):
                # Killed while it starts.
                relay.kill()
                relay.process = subprocess.Popen(
                    relay.process.args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                time.sleep(0.03)
            relay.kill()
            for cores in ("1", "2"):
                relay.flags[relay.flags.index("--cores") + 1] = cores
                relay.start()
                assert {entry["id"] for entry in relay.queue()} == before
                assert relay.stop() == 0
        moved = spool.rename(pathlib.Path(folder, "elsewhere"))
        with Relay(*SMALL, spool=moved, smart_host=port) as relay, Sink(port=port) as sink:
            assert {entry["id"] for entry in relay.queue()} == before
            sink.wait(40)
            relay.wait_empty()
            assert len(sink.messages) == 40


def a_lock_file_that_is_deleted_lets_no_second_relay_use_the_spool():
    with Relay(smart_host=free_port()) as relay:
        send(relay.port)
        (relay.spool / "lock").unlink()
        for replaced in (False, True):
            if replaced:
                (relay.spool / "lock").write_text("1\n")
            second = [word.replace(f"127.0.0.1:{relay.port}", "127.0.0.1:0") for word in relay.flags]
            for words in (["serve", *second, "--set", f"control.socket={relay.spool}/second"],
                          ["spool", "verify", str(relay.spool)]):
                done = subprocess.run([relay.process.args[0], *words], capture_output=True, text=True,
                                      timeout=30, check=False)
                assert done.returncode == (1 if words[0] == "serve" else 2), done
                assert f"process {relay.process.pid}" in done.stderr, done.stderr
        send(relay.port)
        assert len(relay.queue()) == 2
        relay.restart()
        assert len(relay.queue()) == 2


def a_spool_that_has_failed_shows_in_health_and_in_the_exit_status():
    with Relay(smart_host=free_port(), cores="1") as relay:
        code, said, _ = relay.command("health")
        assert (code, said) == (0, "ok: 1 shard takes mail\n")
        shutil.rmtree(relay.spool / "shard-0")
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            assert attempt(client, 1)[0] == 451
        code, said, errors = relay.command("health")
        assert code == 1 and not said and "shard 0: its spool has failed: writing " in errors, errors
        assert b"ERROR" in relay.log and b"the spool has failed: until a restart" in relay.log
        assert relay.stop() == 1
        wait_until("the reason is told", lambda: b"stopped, and a spool had failed" in relay.log)


def an_error_other_than_a_full_disk_is_not_called_one():
    """A folder in which no file can be made; those that are there take mail."""
    with Relay(*SMALL, smart_host=free_port(), cores="1") as relay:
        send(relay.port)
        folder = relay.spool / "shard-0"
        made = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False)
        if made.returncode != 0:
            print("       skipped: this file system has no chattr +i")
            return
        try:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                replies = []
                while len(replies) < 1000 and (not replies or replies[-1][0] == 250):
                    replies.append(attempt(client, len(replies)))
                assert replies[-1] == (451, b"4.3.0 Local error in processing; try again later"), replies[-1]
                wait_until("the log says what failed",
                           lambda: b"no segment can be made in the spool: creating" in relay.log)
                assert b"no space on the disk" not in relay.log
        finally:
            subprocess.run(["chattr", "-i", str(folder)], check=True)
        wait_until("mail is taken again", lambda: is_taken(relay), 20)
        assert relay.stop() == 0


def a_killed_relay_starts_anew_at_once():
    """The kernel lets go of its listening sockets only after it has gone."""
    with Relay(cores="1", smart_host=free_port()) as relay:
        for number in range(10):
            for _ in range(5):
                send(relay.port, text(number, 60_000))
            relay.kill()
            relay.start()
        assert len(relay.queue()) == 50


def a_stopped_process_goes_on_where_it_was():
    with Sink() as sink, Relay(smart_host=sink.port) as relay:
        done = []

        def stream():
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                for number in range(300):
                    done.append(attempt(client, number, 5000)[0])

        threads = [threading.Thread(target=stream) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.2)
            relay.process.send_signal(signal.SIGSTOP)
            time.sleep(2)
            relay.process.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join(60)
        assert done == [250] * 1200, len(done)
        sink.wait(1200, 60)
        relay.wait_empty()
        assert len(sink.messages) == 1200 and not relay.events("deferred")


def a_spool_without_permission_is_named():
    """As an ordinary user on a shard's folder that is root's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with Relay(spool=folder + "/spool", cores="1") as relay:
            send(relay.port)
            assert relay.stop() == 0
        for path in (folder + "/spool", folder + "/spool/lock", folder + "/spool/events.jsonl"):
            os.chown(path, 65534, 65534)
        binary = shutil.copy(relay.process.args[0], folder)
        os.chmod(binary, 0o755)
        done = subprocess.run(
            [binary, *relay.process.args[1:]], capture_output=True, text=True, timeout=20,
            check=False, user=65534, group=65534, extra_groups=[], cwd=folder,
        )
        said = done.stdout + done.stderr
        assert done.returncode != 0 and "panicked" not in said, said
        assert "shard-0" in said and "ermission denied" in said, said


TESTS = [
    a_full_disk_refuses_mail_delivers_what_is_there_and_recovers,
    a_full_disk_of_mail_that_is_refused_empties_itself,
    a_full_disk_of_mail_that_expires_empties_itself,
    a_disk_that_fails_stops_the_intake_and_loses_nothing,
    corrupt_bytes_cost_one_message_and_are_set_aside,
    damage_in_a_large_message_ends_it_and_harms_no_other,
    what_is_damaged_is_called_so_and_shown_where_it_went,
    a_truncated_a_missing_and_a_foreign_file_do_not_keep_the_rest_from_going_out,
    two_restarts_a_moved_spool_and_other_cores_lose_nothing,
    a_lock_file_that_is_deleted_lets_no_second_relay_use_the_spool,
    a_spool_that_has_failed_shows_in_health_and_in_the_exit_status,
    fewer_shards_on_a_full_disk_start_when_there_is_space_and_double_nothing,
    an_error_other_than_a_full_disk_is_not_called_one,
    a_killed_relay_starts_anew_at_once, a_stopped_process_goes_on_where_it_was,
    a_spool_without_permission_is_named,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
