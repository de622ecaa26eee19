//! `[ring]`: the io_uring driver.

use super::declare::table;
use super::kinds::{count, duration, ms};
use super::table::Table;
use std::time::Duration;

table! {
    /// The io_uring driver. These keys rarely need a change.
    pub struct Ring {
        /// Entries of each submission ring, a power of two.
        depth: usize = count(256, 64..=32_768);
        /// How often a busy shard checks its rings for new events, at least. A shorter time lowers
        /// latency, a longer one raises throughput.
        preempt: Duration = duration(ms(1), Duration::from_micros(100)..=ms(100));
    }
    check = check
}

fn check(items: &[Ring], tables: &[Table<'_>]) {
    for (ring, table) in items.iter().zip(tables) {
        let depth = ring.depth;
        if !depth.is_power_of_two() {
            let above = depth.next_power_of_two();
            let what =
                format!("{depth} is not a power of two; the nearest are {} and {above}", above / 2);
            table.fault(&table.place_of("depth"), "depth", what);
        }
    }
}
