#!/usr/bin/env python3
"""Power failures under load, with a real file system on a disk that loses what was not synced.

The spool lies on ext4, that on a loop device, and that on `lossy_disk.py`, which keeps what was not
flushed in a cache of its own. Again and again power fails at a random moment: the disk is frozen as
it is, of all that was not flushed a random part of its blocks (none, all, or any) is kept, the relay
is killed, and everything starts again on what is left. The counting is that of `kill9.py`: every
recipient whose message got its 250 must have been delivered in the end.

Exit status: 0 nothing lost, 1 something lost or corrupted or doubled beyond the window, 2 the test
could not be made, 3 this machine has no FUSE or no loop devices (or we are not root): skipped.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kill9
from kill9 import Trouble

HERE = Path(__file__).resolve().parent
SKIPPED = 3


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", type=Path,
                        default=kill9.ROOT / "target/release/ringpost",
                        help="the ringpost binary [target/release/ringpost]")
    parser.add_argument("--load", type=Path, default=None,
                        help="the ringpost-load binary [next to the relay]")
    parser.add_argument("--failures", type=int, default=20, help="of power [20]")
    parser.add_argument("--seed", type=int, default=1, help="of moments and blocks [1]")
    parser.add_argument("--disk", type=int, default=512, help="size of the disk in MiB [512]")
    parser.add_argument("--rate", type=float, default=300, help="messages a second [300]")
    parser.add_argument("--directory", type=Path, default=None,
                        help="where images and ledgers are made [the system's temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    own = parser.parse_args()
    if not 1 <= own.failures <= 1000:
        parser.error("--failures must be 1 to 1000")
    # What the rest of the test gets.
    sys.argv = ["kill9.py", str(own.relay), "--kills", str(own.failures), "--seed", str(own.seed),
                "--rate", str(own.rate), "--mixed", "--verify", "--drain", "120",
                "--set", "spool.segment_bytes=8 MiB"]
    if own.load is not None:
        sys.argv += ["--load", str(own.load)]
    return own, kill9.arguments()


def why_not():
    """Why this machine cannot do it; `None` when it can."""
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices"
    for program in ("losetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"no {program}"
    return None


def command(*words, check=True):
    done = subprocess.run([str(word) for word in words], capture_output=True, timeout=120)
    if check and done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, words))}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace").strip()


class Machine:
    """The disk, the loop device over it, and the file system on that."""

    def __init__(self, folder, size):
        self.image, self.size = folder / "image", size
        self.fuse, self.mounted = folder / "fuse", folder / "mounted"
        self.fuse.mkdir()
        self.mounted.mkdir()
        self.server = self.loop = None
        self.has_image = False

    def start(self):
        words = [sys.executable, HERE / "lossy_disk.py", self.fuse, str(self.size)]
        if self.has_image:
            words.append(self.image)
        self.server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)
        if self.server.stdout.readline().strip() != "mounted":
            raise Trouble("the lossy disk was not mounted")
        self.loop = command("losetup", "--find", "--show", self.fuse / "disk")
        if not self.has_image:
            command("mkfs.ext4", "-q", self.loop)
        command("mount", "-o", "commit=1", self.loop, self.mounted)

    def ask(self, words):
        self.server.stdin.write(words + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline().split()

    def fail(self, seed):
        """Power fails now: the writes that were under way in the cache."""
        answer = self.ask(f"freeze {self.image} {seed}")
        if not answer or answer[0] != "frozen":
            raise Trouble(f"the lossy disk says {answer}")
        self.has_image = True
        return int(answer[1])

    def stop(self):
        """What is left of it goes, however it is."""
        command("umount", "-l", self.mounted, check=False)
        if self.loop is not None:
            command("losetup", "-d", self.loop, check=False)
            self.loop = None
        command("umount", "-l", self.fuse, check=False)
        if self.server is not None:
            self.server.stdin.close()
            try:
                self.server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None


class PowerTest(kill9.Test):
    """As `kill9`, but the machine goes with the relay."""

    def __init__(self, options, folder, machine, seed):
        super().__init__(options, folder)
        self.machine = machine
        self.spool = machine.mounted / "spool"
        self.random = random.Random(seed)
        self.writes_under_way = 0
        self.failures_with_writes = 0

    def kill_relay(self):
        under_way = self.machine.fail(self.random.getrandbits(32))
        self.writes_under_way += under_way
        self.failures_with_writes += under_way > 0
        # It may have ended by itself: its disk fails.
        self.relay.send_signal(signal.SIGKILL)
        self.relay.wait()
        self.relay = None
        self.kills += 1
        self.machine.stop()
        self.machine.start()


def main():
    own, options = arguments()
    reason = why_not()
    if reason is not None:
        print(f"power: SKIPPED, nothing was tested: {reason}", file=sys.stderr)
        return SKIPPED

    def late(*_):
        raise Trouble("not done in time")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, late)
    signal.alarm(own.failures * 15 + 240)
    folder = Path(tempfile.mkdtemp(prefix="ringpost-power-", dir=own.directory))
    machine = Machine(folder, own.disk << 20)
    test = kept = None
    try:
        machine.start()
        test = PowerTest(options, folder, machine, own.seed)
        result = kill9.run(test, options)
        result["failures_with_writes"] = test.failures_with_writes
        result["blocks_under_way"] = test.writes_under_way
        # A test that lost no write has tested nothing.
        good = (result["lost"] == 0 and result["corrupted"] == 0
                and result["doubled_per_kill"] <= result["window_per_kill"]
                and test.failures_with_writes > 0)
        kept = own.keep or not good
        if own.json:
            print(json.dumps(result))
        else:
            kill9.show(result, test)
            print(f"{'failures_with_writes':22} {test.failures_with_writes}")
            print(f"{'blocks_under_way':22} {test.writes_under_way}")
        return 0 if good else 1
    except (Trouble, OSError, KeyboardInterrupt, subprocess.SubprocessError) as trouble:
        kept = True
        print(f"power: {trouble or 'stopped'}", file=sys.stderr)
        return 2
    finally:
        signal.alarm(0)
        if test is not None:
            test.clean()
        machine.stop()
        if kept:
            print(f"power: image, logs and ledgers are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
