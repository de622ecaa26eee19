"""The tools for a stopped relay's spool: verify, stat, export, import."""

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

from clients import send
from harness import BINARY, Relay, Sink, dialogue, free_port, main, wait_until, without_trace

LONG = b"".join(b".line %07d of a long message\r\n" % number for number in range(60000))


def tool(relay, *words, code=0):
    """Runs `ringpost spool ...` on the relay's spool; returns its output."""
    got, output, errors = relay.command("spool", *words)
    assert got == code, (words, got, output, errors)
    return output + errors


def queue_up(relay, count=30):
    """Messages of many kinds for a next hop that does not exist: {subject: content}."""
    texts = {}
    for number in range(count):
        body = [b"body\r\n", b"", b".\r\n..\r\n.dot\r\n", b"\xe4\xff\r\n" * 50, LONG][number % 5]
        subject = b"number %d" % number
        texts[subject] = b"Subject: " + subject + b"\r\n\r\n" + body
        to = [f"r{number}@d{number % 3}.test", f"s+x={number}@d9.test"][: 1 + number % 2]
        send(relay.port, texts[subject], to=to, source="" if number % 7 == 6 else f"a{number}@s.test")
    return texts


def subject_of(content):
    return content.split(b"Subject: ", 1)[1].split(b"\r\n", 1)[0]


def messages(folder):
    """{id: (fields, trace and content)} of exported files."""
    found = {}
    for path in pathlib.Path(folder).iterdir():
        fields, lines = {}, path.read_bytes()
        while True:
            line, lines = lines.split(b"\r\n", 1)
            while lines.startswith(b" ") and not line.startswith(b"X-Ringpost-Content:"):
                more, lines = lines.split(b"\r\n", 1)
                line += more
            name, value = line.decode().split(": ", 1)
            fields.setdefault(name.removeprefix("X-Ringpost-"), []).append(value)
            if name == "X-Ringpost-Content":
                break
        assert path.name == fields["Id"][0] + ".eml"
        found[fields["Id"][0]] = (fields, lines)
    return found


def an_exported_queue_is_imported_byte_for_byte():
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, Relay(smart_host=port, retry_first="100s") as relay:
        def busy(step, address):
            return "450 4.2.1 busy + later = \"no\"" if step == "rcpt" and address[0] == "r" else None

        with Sink(busy, port=port):
            texts = queue_up(relay)
            relay.wait_event("deferred", 30)
            relay.wait_event("delivered", 15)
            wait_until("what was delivered has left the queue", lambda: len(relay.queue()) == 30)
            before = relay.queue()
        assert all(entry["attempts"] == 1 and "busy + later" in entry["reason"] for entry in before)
        assert relay.stop() == 0
        assert "30 live messages, all intact" in tool(relay, "verify")
        counts = json.loads(tool(relay, "stat", "--json"))
        assert (counts["messages"], counts["recipients"]) == (30, 30), counts
        assert (counts["never_tried"], counts["waiting"], counts["in_doubt"]) == (0, 30, 0), counts
        assert counts["live_bytes"] > sum(map(len, texts.values()))
        assert counts["disk_bytes"] >= counts["live_bytes"] + counts["dead_bytes"]
        assert counts["domains"][0] == {"domain": "d0.test", "recipients": 10}, counts
        assert len(counts["folders"]) == 2
        assert "30 waiting for their next attempt" in tool(relay, "stat")

        assert "exported 30 messages" in tool(relay, "export", "--to", f"{folder}/out")
        out = messages(f"{folder}/out")
        assert len(out) == 30
        for fields, content in out.values():
            assert without_trace(content) == texts[subject_of(content)]
            trace, length = (int(word.split("=")[1]) for word in fields["Content"][0].split())
            assert trace + length == len(content)
        one = next(iter(out))
        assert "exported 1 " in tool(relay, "export", "--to", f"{folder}/one", "--id", one.lower())
        assert "13 letters and digits" in tool(relay, "export", "--to", f"{folder}/none", "--id", "xx", code=2)
        assert "not in the queue" in tool(relay, "export", "--to", f"{folder}/none", "--id", "0" * 13, code=2)
        assert "exported 10 " in tool(relay, "export", "--to", f"{folder}/d1", "--domain", "D1.test")

        # The same spool again: no message is doubled.
        assert "0 imported, 30 already there" in tool(relay, "import", f"{folder}/out")
        shutil.rmtree(relay.spool)
        assert "30 imported" in tool(relay, "import", f"{folder}/out")
        assert "30 live messages, all intact" in tool(relay, "verify")
        assert "exported 30 " in tool(relay, "export", "--to", f"{folder}/again")
        assert messages(f"{folder}/again") == out, "out again, it is what it was"
        for path in pathlib.Path(folder, "out").iterdir():
            assert path.read_bytes() == (pathlib.Path(folder, "again") / path.name).read_bytes()

        relay.start()
        after = {(entry["id"], entry["to"]): entry for entry in relay.queue()}
        for entry in before:
            for key in ("from", "attempts", "due", "reason", "received", "expires"):
                assert after[entry["id"], entry["to"]].get(key) == entry.get(key), (key, entry)
        assert relay.stop() == 0
        # Deliver them: unchanged, but never tried.
        shutil.rmtree(relay.spool)
        for path in pathlib.Path(folder, "out").iterdir():
            message = path.read_bytes()
            head, rest = message.split(b"X-Ringpost-Content:", 1)
            lines = head.replace(b"\r\n ", b" ").split(b"\r\n")
            lines = [line.split(b"> ")[0] + b">" if b"-To: <" in line and b"> " in line else line for line in lines]
            path.write_bytes(b"\r\n".join(lines) + b"X-Ringpost-Content:" + rest)
        assert "30 imported" in tool(relay, "import", f"{folder}/out")
        with Sink(port=port) as sink:
            relay.start()
            sink.wait(30)
            relay.wait_empty()
            arrived = {}
            for source, to, content in sink.messages:
                subject = subject_of(content)
                number = int(subject.split()[1])
                assert source == ("" if number % 7 == 6 else f"a{number}@s.test")
                assert without_trace(content) == texts[subject]
                arrived.setdefault(subject, set()).update(to)
            assert arrived.keys() == texts.keys()
            assert sum(map(len, arrived.values())) == 30


def ended_messages_are_not_imported_again():
    """As long as the spool has a record of it: until its segment is recycled."""
    is_busy = [True]
    with tempfile.TemporaryDirectory() as folder:
        with Sink(lambda step, _: "450 4.2.1 busy" if step == "rcpt" and is_busy[0] else None) as sink:
            with Relay(smart_host=sink.port, cores="1") as relay:
                send(relay.port)
                relay.wait_event("deferred")
                shutil.copytree(relay.spool / "shard-0", f"{folder}/copy")
                assert "exported 1 " in tool(relay, "export", f"{folder}/copy", "--to", f"{folder}/out")
                is_busy.clear()
                is_busy.append(False)
                sink.wait(1)
                relay.wait_empty()
                assert relay.stop() == 0
                said = tool(relay, "import", f"{folder}/out", code=1)
                assert "has ended" in said and "--new-ids" in said, said
                assert "1 imported" in tool(relay, "import", "--new-ids", f"{folder}/out")
                assert "1 imported" in tool(relay, "import", "--new-ids", f"{folder}/out")
                assert "2 live messages" in tool(relay, "verify")


def a_changed_byte_is_found_and_other_messages_are_kept():
    with tempfile.TemporaryDirectory() as folder, Relay(smart_host=free_port(), cores="1") as relay:
        queue_up(relay, 12)
        assert relay.stop() == 0
        segment = max((relay.spool / "shard-0").glob("*.seg*"), key=lambda path: path.read_bytes().count(b"Subject: number 3\r\n"))
        data = bytearray(segment.read_bytes())
        at = data.index(b"Subject: number 3\r\n") + 9
        data[at] ^= 1
        copy = pathlib.Path(folder, "copy")
        shutil.copytree(relay.spool, copy)
        (copy / "shard-0" / segment.name).write_bytes(data)
        said = tool(relay, "verify", str(copy), code=1)
        assert "1 damaged place\n" in said and "DAMAGED in 1 place; intact: 11 live messages" in said, said
        line = next(line for line in said.splitlines() if "damaged:" in line)
        assert f"{copy}/shard-0/{segment.name} byte " in line, line
        words = line.split(" byte ", 1)[1].replace(",", "").split()
        assert int(words[0]) <= at < int(words[0]) + int(words[1]), (line, at)
        record = next(line for line in said.splitlines() if "the record at byte" in line)
        assert int(re.search(r"byte (\d+)", record)[1]) <= at
        id_ = re.search(r"message ([0-9A-Z]{13})", record)[1]
        assert id_ in (relay.spool / "events.jsonl").read_text()
        assert "exported 11 " in tool(relay, "export", str(copy / "shard-0"), "--to", f"{folder}/out", code=1)
        assert not pathlib.Path(folder, "out", id_ + ".eml").exists()
        assert "12 live messages, all intact" in tool(relay, "verify"), "reading has changed nothing"


def a_running_relay_is_not_touched():
    with tempfile.TemporaryDirectory() as folder, Relay(smart_host=free_port()) as relay:
        send(relay.port)
        for words in (["verify"], ["stat"], ["export", "--to", folder + "/o"], ["import", folder]):
            said = tool(relay, *words, code=2)
            assert f"process {relay.process.pid}" in said, said
        said = tool(relay, "verify", str(relay.spool / "shard-0"), code=2)
        assert f"process {relay.process.pid}" in said, said
        copy = f"{folder}/copy"
        relay.stop()
        shutil.copytree(relay.spool, copy)
        relay.start()
        assert "clean: 1 live message, all intact" in tool(relay, "verify", copy)


def a_killed_relay_leaves_a_clean_spool():
    with Relay(smart_host=free_port(), retry_first="100s") as relay:
        pick = random.Random(7)
        for turn in range(5):
            source = subprocess.Popen(
                ["smtp-source", "-s", "20", "-m", "100000", "-l", "3000", "-f", "a@sender.test", "-t",
                 "b@sink.test", f"127.0.0.1:{relay.port}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            time.sleep(0.3 + pick.random())
            relay.process.send_signal(signal.SIGKILL)
            relay.process.wait(10)
            source.kill()
            source.wait()
            known = {event["id"] for event in relay.events("received")}
            said = tool(relay, "verify")
            live = int(said.split("clean: ")[1].split()[0])
            assert live >= len(known) > turn, (said, len(known))
            relay.start()


def plain_files_are_imported_with_an_envelope():
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, Relay(smart_host=port) as relay:
        relay.stop()
        unix = pathlib.Path(folder, "unix.eml")
        unix.write_bytes(b"Subject: unix\n\n.dot\nno end")
        wire = pathlib.Path(folder, "wire.eml")
        wire.write_bytes(b"Subject: wire\r\n\r\n" + LONG)
        assert "needs --from and --to" in tool(relay, "import", str(unix), code=1)
        for wrong in (["a@s.test", "b c@d.test"], ["a@s.test", "<>"], ["a b@s.test", "b@d.test"]):
            source, to = wrong
            said = tool(relay, "import", str(unix), "--from", source, "--to", to, code=2)
            culprit = f'--from "{source}"' if " " in source else f'--to "{to}"'
            assert f"{culprit}: not an address" in said and "unix.eml" not in said, said
        (empty := pathlib.Path(folder, "empty")).mkdir()
        assert "nothing to import" in tool(relay, "import", str(empty), code=2)
        assert "1 imported" in tool(relay, "import", str(empty), str(unix), "--from", "", "--to", "b@d.test")
        shutil.rmtree(relay.spool)
        bad = pathlib.Path(folder, "bad.eml")
        bad.write_bytes(b"Subject: bad\r\n\r\nx\ry\r\n")
        said = tool(relay, "import", folder, "--from", "<>", "--to", "b@d.test", "--to", "<c@d.test>", code=1)
        assert "2 imported" in said and "bad.eml: the content has a CR without an LF" in said, said
        assert "2 live messages" in tool(relay, "verify")
        with Sink(port=port) as sink:
            relay.start()
            got = {subject_of(content): (source, sorted(to), content) for source, to, content in sink.wait(2)}
            envelope = ("", ["b@d.test", "c@d.test"])
            assert got[b"unix"] == (*envelope, b"Subject: unix\r\n\r\n.dot\r\nno end\r\n")
            assert got[b"wire"] == (*envelope, wire.read_bytes())


def a_modified_message_is_refused():
    with tempfile.TemporaryDirectory() as folder, Relay(smart_host=free_port(), cores="1") as relay:
        queue_up(relay, 5)
        relay.stop()
        tool(relay, "export", "--to", f"{folder}/out")
        shutil.rmtree(relay.spool)
        paths = sorted(pathlib.Path(folder, "out").iterdir())
        good = [path.read_bytes() for path in paths]
        changes = [
            (lambda text: text[:-2], "was changed or cut short"),
            (lambda text: text + b"more\r\n", "was changed or cut short"),
            (lambda text: text.replace(b"\r\n", b"\n"), "line ends were changed"),
            (lambda text: text.replace(b"@d", b" @d", 1), "X-Ringpost-To: cannot be understood"),
            (lambda text: text.replace(b"X-Ringpost-Content", b"X-Content"), "missing"),
        ]
        for path, text, (change, _) in zip(paths, good, changes):
            path.write_bytes(change(text))
        said = tool(relay, "import", f"{folder}/out", code=1)
        assert "0 imported, 0 already there, 5 refused" in said, said
        for path, (_, says) in zip(paths, changes):
            line = next(line for line in said.splitlines() if path.name in line)
            assert says in line, (says, line)
        assert "clean: 0 live messages" in tool(relay, "verify")
        for path, text in zip(paths, good):
            path.write_bytes(text)
        assert "5 imported" in tool(relay, "import", f"{folder}/out", *map(str, paths))


def a_folder_that_is_not_a_spool_is_not_reported_clean():
    with tempfile.TemporaryDirectory() as folder:
        for where in (folder, folder + "/missing"):
            done = subprocess.run(
                [BINARY, "spool", "verify", where], capture_output=True, text=True, timeout=20, check=False
            )
            assert done.returncode == 2 and where in done.stderr, done


TESTS = [
    an_exported_queue_is_imported_byte_for_byte,
    ended_messages_are_not_imported_again,
    a_changed_byte_is_found_and_other_messages_are_kept,
    a_running_relay_is_not_touched,
    a_killed_relay_leaves_a_clean_spool,
    plain_files_are_imported_with_an_envelope,
    a_modified_message_is_refused,
    a_folder_that_is_not_a_spool_is_not_reported_clean,
]

if __name__ == "__main__":
    raise SystemExit(main(TESTS))
