//! Spools that older versions of the relay wrote (`tests/fixtures/spool`, which says how) are read,
//! and nothing of a message or of what became of its recipients is lost: what is exported from
//! them is what the old relay exported, also when the records were written anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use ringpost::eml::Export;
use ringpost::ring;
use ringpost::spool::{Recovered, Settings, Spool};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAMES: [&str; 2] = ["killed", "stopped"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spool").join(name)
}

/// The folder of the shard as the old relay left it.
fn restored(name: &str) -> tempfile::TempDir {
    let (from, to) = (fixture(name), tempfile::tempdir().unwrap());
    for line in fs::read_to_string(from.join("sizes")).unwrap().lines() {
        let (file, size) = line.split_once(' ').unwrap();
        let mut bytes = vec![0; size.parse().unwrap()];
        for entry in fs::read_dir(&from).unwrap() {
            let path = entry.unwrap().path();
            let (stem, offset) = path.to_str().unwrap().rsplit_once('.').unwrap_or_default();
            if Path::new(stem).file_name().is_some_and(|name| name == file) {
                let (offset, run): (usize, _) = (offset.parse().unwrap(), fs::read(&path).unwrap());
                bytes[offset..offset + run.len()].copy_from_slice(&run);
            }
        }
        fs::write(to.path().join(file), bytes).unwrap();
    }
    to
}

type Letters = BTreeMap<String, String>;

fn letters(folder: &Path) -> Letters {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    files.map(|file| (file.file_name().into_string().unwrap(), text(file.path()))).collect()
}

fn exported(folder: &Path, messages: impl Iterator<Item = Recovered>) -> Letters {
    let to = tempfile::tempdir().unwrap();
    let mut export = Export::new(to.path()).unwrap();
    messages.for_each(|message| export.message(folder, &message).unwrap());
    export.finish().unwrap();
    letters(to.path())
}

fn settings(folder: &Path, number: u16) -> Settings {
    Settings {
        directory: folder.to_owned(),
        number,
        segment_bytes: 1 << 20,
        stream_threshold: 4096,
        content_bytes_max: 1 << 20,
        outcome_interval: Duration::from_millis(50),
    }
}

fn on_a_shard<F: Future<Output = ()> + 'static>(body: impl Fn() -> F + Send + Clone + 'static) {
    let settings = ring::Settings { depth: 128, preempt: Duration::from_millis(1) };
    ring::start(&[None], &settings, move |_| body()).unwrap().join().unwrap();
}

#[test]
fn an_old_spool_is_exported_as_the_old_relay_exported_it() {
    for name in NAMES {
        let folder = restored(name);
        let expected = letters(&fixture(name).join("exported"));
        assert_eq!(expected.len(), 8);
        let examined = Spool::examine(folder.path()).unwrap();
        assert_eq!((&examined.damages[..], &examined.bad_indexes[..]), (&[][..], &[][..]));
        assert_eq!(exported(folder.path(), examined.messages.into_iter()), expected, "{name}");
        let recovery = Spool::inspect(folder.path()).unwrap();
        assert_eq!(recovery.set_aside, [""; 0]);
        assert_eq!(exported(folder.path(), recovery.messages), expected, "{name}, by its index");
    }
}

#[test]
fn an_old_spool_is_opened_and_its_messages_move_into_new_records() {
    for name in NAMES {
        let (folder, new) = (restored(name), tempfile::tempdir().unwrap());
        let (old, to) = (folder.path().to_owned(), new.path().to_owned());
        on_a_shard(move || {
            let (old, to) = (old.clone(), to.clone());
            async move {
                let (spool, recovery) = Spool::open(settings(&old, 0)).await.unwrap();
                assert_eq!(recovery.messages.len(), 8);
                spool.close().await;
                let (spool, recovery) = Spool::open(settings(&to, 1)).await.unwrap();
                let adopted = spool.adopt(&old, &[recovery]).await.unwrap();
                assert_eq!(adopted.messages.len(), 8);
                spool.close().await;
            }
        });
        let recovery = Spool::inspect(new.path()).unwrap();
        let expected = letters(&fixture(name).join("exported"));
        assert_eq!(exported(new.path(), recovery.messages), expected, "{name}");
    }
}
