"""Runs all interop tests: `python3 tests/interop/run.py [word in a test's name ...]`."""

import clients
import fates
import running
import tools
from harness import main

if __name__ == "__main__":
    raise SystemExit(main(clients.TESTS + fates.TESTS + running.TESTS + tools.TESTS))
