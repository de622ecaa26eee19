//! `[spool]`: the disk.

use super::declare::table;
use super::kinds::{GIB, KIB, MIB, duration, ms, path, seconds, size};
use super::table::Table;
use super::unit;
use std::path::PathBuf;
use std::time::Duration;

table! {
    /// The queue on disk. When the disk is full, new mail is refused with 452 4.3.1 while
    /// deliveries continue. Space that each shard has in reserve is for reports and for what else
    /// frees the disk.
    pub struct Spool {
        /// The directory with the lock, the control socket, the event log, and a directory shard-N
        /// for each shard. Each relay needs its own. It is created if it is missing, but its parent
        /// directory is not.
        directory: PathBuf = path("ringpost-spool");
        /// Size of a segment file, a multiple of 4 KiB. Its space is reserved at once. Larger
        /// segments mean fewer files; smaller ones free space sooner. Each shard has five at least:
        /// one that is written, and four in reserve, without which it takes no mail.
        segment_bytes: u64 = size(64 * MIB, MIB..=4 * GIB);
        /// A message larger than this is written to the segment as it arrives instead of being held
        /// in memory until its end; at most a quarter of segment_bytes. Most mail is smaller, and
        /// small messages share one write and one sync.
        stream_threshold: usize = size(256 * KIB, 4 * KIB..=GIB);
        /// The result of a delivery is written with the next commit, or separately after this time.
        /// After a crash, deliveries of this last interval are made again; the relay logs at start
        /// how many are in doubt.
        outcome_interval: Duration = duration(ms(50), ms(1)..=seconds(10));
    }
    check = check
}

fn check(items: &[Spool], tables: &[Table<'_>]) {
    for (spool, table) in items.iter().zip(tables) {
        table.set_spool_directory(&spool.directory);
        let bytes = spool.segment_bytes;
        if !bytes.is_multiple_of(4 * KIB) {
            let below = bytes / (4 * KIB) * (4 * KIB);
            let what = format!(
                "{bytes} bytes are not a multiple of 4 KiB; the nearest that are: \"{}\" and \
                 \"{}\"",
                unit::show_size(below),
                unit::show_size(below + 4 * KIB)
            );
            table.fault(&table.place_of("segment_bytes"), "segment_bytes", what);
        }
    }
}
