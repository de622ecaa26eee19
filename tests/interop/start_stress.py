"""Starts on a busy machine."""

import subprocess
import threading

from harness import BINARY, Relay, main

STARTS, AT_ONCE = 100, 4
ANSWERS_WITHIN_S = 8


def every_start_succeeds():
    """Four relays at a time, on two cores: each must answer `queue list`. About one in 200 did not: a
    shard slept before its body was polled for the first time. `ring::watchdog` interrupts it."""
    silent = []

    def start_again_and_again():
        for _ in range(STARTS):
            with Relay() as relay:
                try:
                    subprocess.run([BINARY, "queue", "list", *relay.flags], capture_output=True,
                                   timeout=ANSWERS_WITHIN_S, check=True)
                except subprocess.TimeoutExpired:
                    silent.append(relay.log.decode())

    threads = [threading.Thread(target=start_again_and_again) for _ in range(AT_ONCE)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not silent, f"{len(silent)} of {STARTS * AT_ONCE} starts: {silent[0]}"


TESTS = [every_start_succeeds]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
