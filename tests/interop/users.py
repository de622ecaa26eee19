"""Users at the command line, and real clients that log in."""

import os
import pathlib
import pty
import subprocess
import tempfile

from harness import BINARY, main


def user(path, *words, password=None):
    """Runs `ringpost user`: (exit code, output, errors)."""
    done = subprocess.run([BINARY, "user", *words, "--users", str(path)], input=password, capture_output=True,
                          text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def users_are_added_listed_verified_and_removed():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "users.toml"
        assert user(path, "add", "joe", password="pencil\n") == (0, "", "")
        assert path.stat().st_mode & 0o777 == 0o600
        assert user(path, "add", "ann", "--sender", "@example.com", password="eraser")[0] == 0
        code, _, errors = user(path, "add", "joe", password="other\n")
        assert code == 1 and "there already" in errors, errors
        code, output, _ = user(path, "list")
        assert code == 0 and output == ("ann\tpassword,scram\t@example.com\n"
                                        "joe\tpassword,scram\tany sender\n"), output
        assert user(path, "verify", "joe", password="pencil\n")[0] == 0
        assert user(path, "verify", "joe", password="Pencil\n")[0] == 1
        assert user(path, "remove", "joe")[0] == 0
        assert user(path, "verify", "joe", password="pencil\n")[0] == 1
        assert "pencil" not in path.read_text() and "eraser" not in path.read_text()
        code, _, errors = user(path, "add", "empty", password="")
        assert code == 1 and "no password on standard input" in errors, errors


def a_terminal_is_asked_twice_and_shows_nothing():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "users.toml"

        def add(*answers):
            pid, terminal = pty.fork()
            if pid == 0:
                os.execv(BINARY, [BINARY, "user", "add", "joe", "--users", str(path)])
            seen = b""
            for answer in answers:
                while not seen.endswith((b"Password: ", b"Again: ")):
                    seen += os.read(terminal, 1000)
                seen += b"|"
                os.write(terminal, answer + b"\n")
            try:
                while more := os.read(terminal, 1000):
                    seen += more
            except OSError:
                pass
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

        code, seen = add(b"pencil", b"pencel")
        assert code == 1 and b"not the same" in seen and not path.exists(), seen
        code, seen = add(b"pencil", b"pencil")
        assert code == 0 and b"pencil" not in seen, seen
        assert user(path, "verify", "joe", password="pencil\n")[0] == 0


TESTS = (
    users_are_added_listed_verified_and_removed,
    a_terminal_is_asked_twice_and_shows_nothing,
)

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
