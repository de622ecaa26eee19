//! The guarantees of the log, with files in a temporary folder and outputs that fail or hang.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::ring;
use std::sync::{Arc, Mutex};

const LONG: Duration = Duration::from_secs(10);

fn event(number: u64) -> Event<'static> {
    Event { text: Some("x"), size: Some(number), ..Event::new(Kind::Delivered, Timestamp(number)) }
}

fn to_file(path: &Path, rotate_bytes: u64, keep: usize) -> EventWriter {
    let output = config::EventOutput::File(path.into());
    EventWriter::start(&config::Event { output, rotate_bytes, keep }, 1).unwrap()
}

fn numbers(text: &str) -> Vec<u64> {
    let number = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["size"].as_u64()
    };
    text.lines().filter_map(number).collect()
}

/// An output that waits for `gate` to allow each write.
struct Gated {
    gate: Receiver<io::Result<usize>>,
    taken: Taken,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without a gate, everything passes.
        let count = self.gate.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Taken = Arc<Mutex<Vec<u8>>>;

fn gated() -> (EventWriter, Sender<io::Result<usize>>, Taken) {
    let (open, gate) = bounded(10);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::Stream(Box::new(Gated { gate, taken: taken.clone() }));
    (EventWriter::start_with(sink, 1).unwrap(), open, taken)
}

fn text(taken: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(taken.lock().unwrap().clone()).unwrap()
}

#[test]
fn lines_reach_the_file_in_order_with_their_shard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    fs::write(&path, "cut by a cra").unwrap();
    let writer = to_file(&path, u64::MAX, 1);
    let log = writer.log(3);
    (0..10_000).for_each(|number| log.emit(&event(number)));
    log.flush();
    drop(log);
    assert!(writer.shutdown(LONG));
    let text = fs::read_to_string(&path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "cut by a cra");
    assert_eq!(numbers(rest), (0..10_000).collect::<Vec<u64>>());
    assert!(rest.lines().all(|line| line.contains(r#""shard":3"#)));
}

#[test]
fn a_full_file_is_renamed_and_a_limited_number_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let writer = to_file(&path, 300, 2);
    let log = writer.log(0);
    for number in 0..9 {
        log.emit(&event(number));
        log.emit(&event(number));
        while !log.held.borrow().lines.is_empty() {
            log.flush();
            std::thread::yield_now();
        }
    }
    assert!(writer.shutdown(LONG));
    let read = |name: &str| numbers(&fs::read_to_string(folder.path().join(name)).unwrap());
    assert_eq!(read("events.jsonl.2"), [6, 6]);
    assert_eq!(read("events.jsonl.1"), [7, 7]);
    assert_eq!(read("events.jsonl"), [8, 8]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

/// Emits `number` and waits until it is written.
fn write_one(log: &EventLog, number: u64, path: &Path) {
    log.emit(&event(number));
    log.flush();
    let is_there = || fs::read_to_string(path).is_ok_and(|text| numbers(&text).contains(&number));
    for _ in 0..2000 {
        if is_there() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("event {number} is not in {}", path.display());
}

#[test]
fn logrotate_by_renaming_removing_or_copying_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let moved = folder.path().join("moved");
    let writer = to_file(&path, u64::MAX, 1);
    let log = writer.log(0);
    write_one(&log, 1, &path);
    fs::rename(&path, &moved).unwrap();
    write_one(&log, 2, &path);
    assert_eq!(numbers(&fs::read_to_string(&moved).unwrap()), [1]);
    assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [2]);
    fs::remove_file(&path).unwrap();
    write_one(&log, 3, &path);
    // copytruncate
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)).unwrap();
    write_one(&log, 4, &path);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    // Another program has created a file there.
    fs::write(&moved, "cut by a cra").unwrap();
    fs::rename(&moved, &path).unwrap();
    write_one_behind(&log, 5, &path);
    // SIGHUP creates the file, without any event.
    fs::remove_file(&path).unwrap();
    writer.reopen();
    for _ in 0..2000 {
        if path.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert!(writer.shutdown(LONG));
}

fn write_one_behind(log: &EventLog, number: u64, path: &Path) {
    log.emit(&event(number));
    log.flush();
    for _ in 0..2000 {
        let text = fs::read_to_string(path).unwrap();
        if let Some((first, rest)) = text.split_once('\n')
            && numbers(rest) == [number]
        {
            assert_eq!(first, "cut by a cra");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("event {number} is not in {}", path.display());
}

#[test]
fn lines_go_to_the_moved_file_while_no_new_one_can_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let moved = folder.path().join("moved");
    let writer = to_file(&path, u64::MAX, 1);
    let log = writer.log(0);
    write_one(&log, 1, &path);
    fs::rename(&path, &moved).unwrap();
    fs::create_dir(&path).unwrap();
    write_one(&log, 2, &moved);
    fs::remove_dir(&path).unwrap();
    write_one(&log, 3, &path);
    assert_eq!(numbers(&fs::read_to_string(&moved).unwrap()), [1, 2]);
    assert!(writer.shutdown(LONG));
}

#[test]
fn a_pipe_or_a_device_is_refused_as_a_file() {
    for path in ["/dev/null", "/"] {
        let output = config::EventOutput::File(path.into());
        let started = EventWriter::start(&config::Event { output, rotate_bytes: 1, keep: 1 }, 1);
        let error = started.unwrap_err().to_string();
        assert!(error.contains("not a regular file") && error.contains(path), "{error}");
    }
}

#[test]
fn a_rotation_that_fails_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let in_the_way = folder.path().join("events.jsonl.1");
    fs::create_dir_all(in_the_way.join("full")).unwrap();
    let writer = to_file(&path, 100, 1);
    let log = writer.log(0);
    for number in 0..20 {
        log.emit(&event(number));
        log.flush();
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(log);
    assert!(writer.shutdown(LONG));
    assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), (0..20).collect::<Vec<u64>>());
}

#[test]
fn a_hanging_output_first_stops_new_mail_then_loses_lines_and_counts_them() {
    let (writer, open, taken) = gated();
    let log = writer.log(0);
    log.emit(&event(0));
    log.flush();
    while !log.output.as_ref().unwrap().full.is_empty() {
        std::thread::yield_now(); // until the thread hangs in the first write
    }
    let mut number = 1;
    while !log.is_behind() {
        log.emit(&event(number));
        number += 1;
    }
    let behind_at = number;
    while !log.backlogged() {
        log.emit(&event(number));
        number += 1;
    }
    let backlogged_at = number;
    assert!(backlogged_at - behind_at > 1000, "there was room for the events of reports");
    while log.held.borrow().lost < 100 {
        log.emit(&event(number));
        number += 1;
    }
    assert!(number - backlogged_at > 1000, "there was room for the events of open sessions");
    assert!(log.held.borrow().lines.len() <= BACKLOG_BYTES_MAX);
    drop(open);
    while log.backlogged() {
        log.flush();
        std::thread::yield_now();
    }
    log.emit(&event(number));
    drop(log);
    assert!(writer.shutdown(LONG));
    let text = text(&taken);
    let mut expected: Vec<u64> = (0..number - 100).collect();
    expected.push(number);
    assert!(numbers(&text) == expected, "all but the lost ones, in order");
    assert!(text.contains(r#""event":"lost-events","shard":0,"lost":100}"#));
}

#[test]
fn a_failing_output_is_retried_where_it_stopped() {
    let (writer, open, taken) = gated();
    let log = writer.log(0);
    (0..3).for_each(|number| log.emit(&event(number)));
    log.flush();
    open.send(Ok(40)).unwrap();
    open.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    open.send(Ok(0)).unwrap();
    drop(open);
    assert!(writer.shutdown(LONG));
    assert_eq!(numbers(&text(&taken)), [0, 1, 2]);
}

#[test]
fn the_stop_is_bounded_in_time_whatever_the_output_does() {
    let (writer, open, _) = gated();
    let log = writer.log(0);
    log.emit(&event(0));
    log.flush();
    let began = ring::now();
    assert!(!writer.shutdown(Duration::from_millis(50)), "it hangs");
    assert!(ring::now().saturating_duration_since(began) < Duration::from_secs(5));
    drop(open);
    // No write succeeds any more: it is bounded anyway.
    (0..20_000).for_each(|number| log.emit(&event(number)));
    assert!(log.held.borrow().lines.len() <= BACKLOG_BYTES_MAX);

    let (writer, open, _) = gated();
    let log = writer.log(0);
    log.emit(&event(0));
    log.flush();
    let failing =
        std::thread::spawn(
            move || {
                while open.send(Err(io::ErrorKind::StorageFull.into())).is_ok() {}
            },
        );
    assert!(!writer.shutdown(Duration::from_millis(50)), "it fails");
    failing.join().unwrap();
}

#[test]
fn lines_that_a_shard_holds_when_it_ends_are_passed_on() {
    let (writer, open, taken) = gated();
    let log = writer.log(0);
    for number in 0..10 {
        log.emit(&event(number));
        log.flush();
    }
    assert!(!log.held.borrow().lines.is_empty(), "too many buffers are in flight");
    let ending = std::thread::spawn(move || drop(log));
    drop(open);
    ending.join().unwrap();
    assert!(writer.shutdown(LONG));
    assert_eq!(numbers(&text(&taken)), (0..10).collect::<Vec<u64>>());
}

#[test]
fn events_that_are_off_cost_nothing() {
    let off = config::Event { output: config::EventOutput::Off, rotate_bytes: 1, keep: 1 };
    let writer = EventWriter::start(&off, 4).unwrap();
    let log = writer.log(0);
    log.emit(&event(0));
    log.flush();
    assert!(!log.backlogged() && log.held.borrow().lines.capacity() == 0);
    EventLog::off().emit(&event(0));
    assert!(writer.shutdown(Duration::ZERO));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let output = config::EventOutput::File("/nonexistent/events".into());
    let error = EventWriter::start(&config::Event { output, rotate_bytes: 1, keep: 1 }, 1);
    assert!(error.unwrap_err().to_string().contains("/nonexistent/events"));
}

#[test]
fn other_users_may_not_read_the_event_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let writer = to_file(&path, 1, 1);
    let log = writer.log(0);
    for number in 0..2 {
        log.emit(&event(number));
        log.flush();
    }
    drop(log);
    assert!(writer.shutdown(LONG));
    for path in [&path, &folder.path().join("events.1")] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{}: {mode:o}", path.display());
    }
}
