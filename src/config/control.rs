//! `[control]`: the control socket, and the time to stop.

use super::declare::table;
use super::kinds::{duration, hours, optional, path_in_spool, seconds, text};
use super::table::Table;
use std::path::PathBuf;
use std::time::Duration;

/// `struct sockaddr_un` has 108 bytes for a path and its final zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

table! {
    /// The control socket, and how the relay stops.
    pub struct Control {
        /// The Unix socket that `ringpost queue` uses. Its path may have at most 107 bytes.
        socket: PathBuf = path_in_spool("control.sock");
        /// The name of the group whose members may use the socket (its mode is 0660). Without it,
        /// the group that the relay runs as.
        group: Option<Box<str>> = optional(text("ringpost-operators"));
        /// After SIGTERM the relay starts no new transaction, and gives open ones this long to
        /// finish. What is not finished by then is tried again after the next start.
        stop_within: Duration = duration(seconds(20), Duration::ZERO..=hours(1));
    }
    check = check
}

fn check(items: &[Control], tables: &[Table<'_>]) {
    for (control, table) in items.iter().zip(tables) {
        let length = control.socket.as_os_str().len();
        if length > UNIX_PATH_BYTES_MAX {
            let what = format!(
                "the path of control.socket has {length} bytes, and the kernel allows at most \
                 {UNIX_PATH_BYTES_MAX}: {:?}; set control.socket to a shorter one",
                control.socket
            );
            table.report().relation(["spool.directory", "control.socket"], what);
        }
    }
}
