"""Runs all interop tests: `python3 tests/interop/run.py [word in a test's name ...]`."""

import ahead
import clients
import disk
import encryption
import fates
import golang
import hostile
import libraries
import mishaps
import mtas
import names
import node
import postfix
import receiving
import require_tls
import running
import sending
import starting
import timely
import tokens
import tools
import users
import visitors
import wiring
from harness import main

ROOMS = (
    clients, fates, names, running, starting, wiring, hostile, mishaps, disk, tools, encryption, receiving,
    sending, ahead, timely, postfix, mtas, users, tokens, visitors, libraries, node, golang, require_tls,
)

if __name__ == "__main__":
    raise SystemExit(main([test for room in ROOMS for test in room.TESTS]))
