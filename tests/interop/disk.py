"""The disk: large messages from many sessions at once, disk used beside what lives on it, and disks
that end, stop or cannot be written under the load of a relay."""

import pathlib
import resource
import selectors
import smtplib
import socket
import subprocess
import threading
import time

from clients import send
from harness import BINARY, Relay, Sink, free_port, main, wait_until
from disk_faults import SMALL, attempt, fill, is_taken, small_disk, text

MEBI = 1 << 20
LINE = b"z" * 76 + b"\r\n"
BLOCK = LINE * 840


class Flood:
    """`sessions` clients that each send one message of `size` bytes, all at once, as fast as they
    may: every one sends only when its socket takes more."""

    def __init__(self, port, sessions, size):
        self.size = size
        self.codes = {}
        self.selector = selectors.DefaultSelector()
        for number in range(sessions):
            peer = socket.create_connection(("127.0.0.1", port), 60)
            peer.settimeout(60)
            for line in (None, b"EHLO c\r\n", b"MAIL FROM:<a@s.test>\r\n", b"RCPT TO:<b@t.test>\r\n",
                         b"DATA\r\n"):
                if line:
                    peer.sendall(line)
                reply = b""
                while not reply.endswith(b"\r\n") or reply.splitlines()[-1][3:4] == b"-":
                    reply += peer.recv(4096)
                assert reply[:1] in b"23", reply
            peer.setblocking(False)
            self.selector.register(peer, selectors.EVENT_WRITE | selectors.EVENT_READ, [number, 0])

    def run(self, seconds, watch):
        """Until all are answered: `watch()` is called once a second. The longest that a session
        that had not sent all of it had to wait, in seconds."""
        end, looked = time.monotonic() + seconds, 0.0
        moved = {}
        longest = 0.0
        while self.selector.get_map():
            assert time.monotonic() < end, f"{len(self.selector.get_map())} sessions are not done"
            for key, ready in self.selector.select(1):
                now = time.monotonic()
                peer, state = key.fileobj, key.data
                if ready & selectors.EVENT_READ:
                    self.codes[state[0]] = peer.recv(4096)[:3]
                    self.selector.unregister(peer)
                    peer.close()
                    continue
                longest = max(longest, now - moved.get(state[0], now))
                moved[state[0]] = now
                at = state[1] % len(BLOCK)
                part = BLOCK[at:] if state[1] < self.size else b".\r\n"
                sent = peer.send(part)
                state[1] += sent
                if part == b".\r\n":
                    self.selector.modify(peer, selectors.EVENT_READ, state)
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                watch()
        return longest


def resident(pid):
    """Of the process, in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def used(folder):
    """What the segments take of the disk, in bytes."""
    total = 0
    for path in pathlib.Path(folder).rglob("*.seg"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def many_large(sessions, size, budget, segment, seconds, spool=None, say=False, wait_gone=False):
    """`sessions` messages of `size` bytes at once: how much memory that took, in bytes, and how
    long the slowest session stood still, in seconds."""
    flags = ("--set", f"core_default.content_bytes_max={budget}", "--set", "event.output=off",
             "--set", f"spool.segment_bytes={segment}", "--set", "retry.expire=2s",
             "--set", "retry.first=1s", "--set", "core_default.hot_bytes_max=0",
             "--set", "session.data_timeout=15m", "--set", "core_default.connections_max=2000",
             "--set", "pool.connections_max=100")
    with Relay(*flags, cores="1", smart_host=free_port(), spool=spool, retry_first="1s") as relay:
        before, most = resident(relay.process.pid), 0

        def watch():
            nonlocal most
            most = max(most, resident(relay.process.pid))
            if say:
                print(f"       RSS {resident(relay.process.pid) // MEBI} MiB, disk "
                      f"{used(relay.spool) // MEBI} MiB, {len(flood.codes)} done", flush=True)

        flood = Flood(relay.port, sessions, size)
        began = time.monotonic()
        longest = flood.run(seconds, watch)
        took = time.monotonic() - began
        watch()
        assert set(flood.codes.values()) == {b"250"}, set(flood.codes.values())
        print(f"       {sessions} x {size // MEBI} MiB in {took:.1f} s: {before // MEBI} MiB grew to "
              f"{most // MEBI}; {used(relay.spool) // MEBI} MiB of disk; the longest standstill "
              f"{longest:.1f} s", flush=True)
        if wait_gone:
            # The mail expires (its report too); the disk comes back but for a few segments.
            wait_until("the disk comes back", lambda: watch() or used(relay.spool) < 10 * segment, 300)
            print(f"       {used(relay.spool) // MEBI} MiB of disk when it is gone, RSS "
                  f"{resident(relay.process.pid) // MEBI} MiB")
        return most - before, longest


def large_messages_from_many_sessions_stay_within_the_memory_for_them():
    grown, longest = many_large(200, 5 * MEBI, 8 * MEBI, 64 * MEBI, 120)
    # The budget; of each session its buffers and a few kilobytes; batches and what malloc keeps.
    allowed = 8 * MEBI + 200 * 160 * 1024 + 48 * MEBI
    assert grown < allowed, f"{grown // MEBI} MiB, {allowed // MEBI} allowed"
    assert longest < 30, longest



def verified(relay):
    """The stopped relay's spool has no damage."""
    done = subprocess.run(
        [BINARY, "spool", "verify", str(relay.spool)], capture_output=True, text=True, timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def a_limit_on_the_size_of_files_is_a_full_disk_and_kills_nothing():
    """Segments are 2 MiB, and no file may be longer than 1 MiB: the kernel sends SIGXFSZ."""
    port = free_port()
    with Relay(*SMALL, smart_host=port, cores="1") as relay:
        taken = 0
        for number in range(5):
            send(relay.port, text(number, 2000))
        resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (MEBI, MEBI))
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            for number in range(200):
                code, words = attempt(client, number)
                if code != 250:
                    break
                taken += 1
        print(f"       {taken} taken, then {code} {words.decode()}")
        assert code // 100 == 4, (code, words)
        assert relay.process.poll() is None, "it lives"
        relay.kill()
        verified(relay)
        relay.start()
        with Sink(port=port) as sink:
            sink.wait(5 + taken, 30)
            relay.wait_empty()
            assert is_taken(relay)
        assert relay.stop() == 0
        verified(relay)


def a_disk_that_becomes_read_only_under_load_loses_nothing():
    """As the kernel does it when it finds the file system damaged (errors=remount-ro)."""
    port = free_port()
    with small_disk(100) as disk:
        acknowledged = []
        with Relay(*SMALL, spool=disk / "spool", smart_host=port, cores="1") as relay:
            refusals = []

            def stream():
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
                    for number in range(5000):
                        code, words = attempt(client, number, 3000)
                        if code != 250:
                            refusals.append((code, words))
                            return
                        acknowledged.append(number)

            threads = [threading.Thread(target=stream) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_until("some are taken", lambda: len(acknowledged) > 100)
            subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=False)
            for thread in threads:
                thread.join(60)
            print(f"       {len(acknowledged)} taken, then {refusals[0]}")
            assert len(refusals) == 4 and all(code // 100 == 4 for code, _ in refusals), refusals
            wait_until("the log says so", lambda: b"the spool has failed" in relay.log)
            assert b"until a restart" in relay.log
            relay.stop()
        subprocess.run(["umount", str(disk)], check=True)
        # Replays the journal; `fsck` clears the mark of the error.
        subprocess.run(["e2fsck", "-fy", str(disk.parent / "image")], capture_output=True, check=False)
        subprocess.run(["mount", "-o", "loop", str(disk.parent / "image"), str(disk)], check=True)
        with Sink(port=port) as sink, \
                Relay(*SMALL, spool=disk / "spool", smart_host=port, cores="1") as relay:
            sink.wait(len(acknowledged), 30)
            relay.wait_empty()
            assert is_taken(relay)
            assert relay.stop() == 0
            verified(relay)


def a_few_that_wait_do_not_keep_the_disk_of_the_many_that_went():
    """Every hundredth recipient is deferred for ever: their bytes live, all else is let go."""
    def reply(step, address):
        return "450 4.2.0 later" if step == "rcpt" and address.startswith("wait") else None

    segment = 2 * MEBI
    with Sink(reply=reply) as sink, Relay(*SMALL, smart_host=sink.port, cores="1",
                                          retry_first="1s") as relay:
        most, waiting = 0, 0
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            for number in range(6000):
                name = "wait" if number % 100 == 0 else "gone"
                waiting += name == "wait"
                client.sendmail("a@sender.test", [f"{name}{number}@sink.test"], text(number, 20_000))
                if number % 50 == 0:
                    most = max(most, used(relay.spool))
        wait_until("only those wait", lambda: len(relay.queue()) == waiting, 60)
        live = waiting * 21_000
        # Twice what lives and four segments; four spares, one that is being cleaned, and while mail
        # comes what is about to leave the queue.
        bound = 2 * live + 9 * segment
        wait_until("the disk comes back", lambda: used(relay.spool) <= bound, 30)
        print(f"       {live / MEBI:.1f} MiB live in {used(relay.spool) / MEBI:.1f} MiB of disk "
              f"({most / MEBI:.1f} at most; 120 MiB passed through); bound {bound / MEBI:.1f}")
        assert most <= 2 * bound, most


TESTS = [
    large_messages_from_many_sessions_stay_within_the_memory_for_them,
    a_few_that_wait_do_not_keep_the_disk_of_the_many_that_went,
    a_limit_on_the_size_of_files_is_a_full_disk_and_kills_nothing,
    a_disk_that_becomes_read_only_under_load_loses_nothing,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
