#!/usr/bin/env python3
"""A disk image that really loses what was not synced, as one file on FUSE.

    lossy_disk.py MOUNT SIZE          serves until it is unmounted; commands on standard input

MOUNT gets one file, `disk`. What is written there stays in a cache until an fsync; a loop device
over it turns each flush of the file system into one. Commands, each answered by a line:

    freeze FILE SEED   power fails a few writes from now (in the middle of a commit, most often), or
                       at once when none come: what was synced, and of the rest a random part (by
                       SEED: none, all, or any blocks of 512 bytes), is written to FILE; writes and
                       syncs fail from then on
    count              writes and syncs so far

It speaks the kernel's protocol itself (include/uapi/linux/fuse.h), so it needs no library.
"""

import ctypes
import errno
import os
import random
import struct
import sys
import threading

BLOCK = 512
PAGE = 4096
WRITE_MAX = 128 * 1024
# Opcodes.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
ACCESS, DESTROY, BATCH_FORGET, FALLOCATE, LSEEK = 35, 38, 42, 43, 46
ROOT, DISK = 1, 2
# So long a freeze waits for writes.
FREEZE_SECONDS_MAX = 1.0
BIG_WRITES = 1 << 5


class Disk:
    """Pages that are durable, and the writes since, in order."""

    def __init__(self, size):
        self.size = size
        self.now = {}
        self.durable = {}
        self.dirty = []
        self.frozen = False
        self.writes = self.syncs = 0
        self.lock = threading.Lock()
        # Writes until power fails, and what happened then.
        self.writes_left = None
        self.failed = threading.Event()

    def write(self, at, data):
        self.writes += 1
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left <= 0:
                self.frozen = True
                self.failed.set()
        offset = 0
        while offset < len(data):
            index, within = divmod(at + offset, PAGE)
            count = min(PAGE - within, len(data) - offset)
            page = bytearray(self.now.get(index, b"") or bytes(PAGE))
            page[within:within + count] = data[offset:offset + count]
            self.now[index] = page = bytes(page)
            self.dirty.append((index, page))
            offset += count

    def read(self, at, count):
        count = max(0, min(count, self.size - at))
        parts = []
        end = at + count
        while at < end:
            index, within = divmod(at, PAGE)
            part = min(PAGE - within, end - at)
            page = self.now.get(index)
            parts.append(page[within:within + part] if page else bytes(part))
            at += part
        return b"".join(parts)

    def sync(self):
        self.syncs += 1
        self.durable.update(self.dirty)
        self.dirty.clear()

    def freeze(self, path, seed):
        """The disk as power failure leaves it."""
        self.frozen = True
        rng = random.Random(seed)
        odds = rng.choice([0.0, 0.0, 1.0, rng.random(), rng.random()])
        left = dict(self.durable)
        for index, page in self.dirty:
            old = left.get(index) or bytes(PAGE)
            left[index] = b"".join(
                (page if rng.random() < odds else old)[at:at + BLOCK]
                for at in range(0, PAGE, BLOCK))
        with open(path, "wb") as file:
            file.truncate(self.size)
            for index, page in sorted(left.items()):
                if page.count(0) != PAGE:
                    file.seek(index * PAGE)
                    file.write(page)
        return len(self.dirty), odds


def load(disk, path):
    """Begins with what an earlier disk was frozen to."""
    with open(path, "rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // PAGE * PAGE
            except OSError:
                return
            file.seek(at)
            page = file.read(PAGE)
            if not page:
                return
            page = page.ljust(PAGE, b"\0")
            disk.durable[at // PAGE] = disk.now[at // PAGE] = page
            at += PAGE


def attributes(node, size):
    mode = 0o040755 if node == ROOT else 0o100600
    return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1,
                       0, 0, 0, PAGE, 0)


def answer(disk, opcode, node, body):
    """The body of a reply, or a negative error number, or None for no reply."""
    if opcode == INIT:
        major, minor, readahead, _flags = struct.unpack_from("<4I", body)
        return struct.pack("<4I2H2I2H8I", 7, min(minor, 31), readahead, BIG_WRITES, 16, 12,
                           WRITE_MAX, 1, 32, 0, *[0] * 8)
    if opcode in (FORGET, BATCH_FORGET):
        return None
    if opcode == LOOKUP:
        if node != ROOT or body.rstrip(b"\0") != b"disk":
            return -errno.ENOENT
        return struct.pack("<4Q2I", DISK, 0, 3600, 3600, 0, 0) + attributes(DISK, disk.size)
    if opcode in (GETATTR, SETATTR):
        return struct.pack("<Q2I", 3600, 0, 0) + attributes(node, disk.size)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 1, 0, 0)
    if opcode in (RELEASE, RELEASEDIR, FLUSH, ACCESS, DESTROY):
        return b""
    if opcode == READDIR:
        return b""
    if opcode == STATFS:
        return struct.pack("<5Q4I", 1 << 20, 1 << 19, 1 << 19, 10, 10, PAGE, 255, PAGE, 0) + bytes(24)
    if opcode == READ:
        _handle, at, count = struct.unpack_from("<2QI", body)
        return disk.read(at, count)
    if opcode == WRITE:
        _handle, at, count = struct.unpack_from("<2QI", body)
        if disk.frozen:
            return -errno.EIO
        disk.write(at, body[40:40 + count])
        return struct.pack("<2I", count, 0)
    if opcode == FSYNC:
        if disk.frozen:
            return -errno.EIO
        disk.sync()
        return b""
    return -errno.ENOSYS


def serve(disk, device):
    while True:
        try:
            request = os.read(device, WRITE_MAX + PAGE)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            return
        if not request:
            return
        _length, opcode, unique, node = struct.unpack_from("<2I2Q", request)
        with disk.lock:
            reply = answer(disk, opcode, node, request[40:])
        if reply is None:
            continue
        error, reply = (reply, b"") if isinstance(reply, int) else (0, reply)
        try:
            os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
        except OSError:
            pass


def mount(folder):
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,max_read={WRITE_MAX}".encode()
    # MS_NOSUID and MS_NODEV.
    if libc.mount(b"lossy", os.fsencode(folder), b"fuse", 2 | 4, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return device


def main():
    folder, size = sys.argv[1], int(sys.argv[2])
    disk = Disk(size)
    if len(sys.argv) > 3:
        load(disk, sys.argv[3])
    device = mount(folder)
    threading.Thread(target=serve, args=(disk, device), daemon=True).start()
    print("mounted", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "freeze":
            with disk.lock:
                disk.writes_left = random.Random(int(words[2])).randint(1, 40)
            disk.failed.wait(FREEZE_SECONDS_MAX)
        with disk.lock:
            if words[0] == "freeze":
                lost, odds = disk.freeze(words[1], int(words[2]))
                print(f"frozen {lost} {odds:.3f}", flush=True)
            elif words[0] == "count":
                print(f"count {disk.writes} {disk.syncs}", flush=True)
            else:
                print("unknown", flush=True)


if __name__ == "__main__":
    main()
