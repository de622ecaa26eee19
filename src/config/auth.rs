//! What the keys about logging in mean: `[auth]`.

use super::Auth;
use super::table::Table;
use super::written::read_path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// `[auth]`.
pub(super) fn auth(mut table: Table) -> Auth {
    let auth = Auth {
        users: table.parsed("users", None, |text| read_path(text).map(Some)),
        without_tls: table.flag("without_tls", false),
        failure_delay: table.duration("failure_delay", 2 * SECOND, Duration::ZERO..=30 * SECOND),
        failures_per_address: table.number("failures_per_address", 10, 1..=1_000_000),
        failures_per_user: table.number("failures_per_user", 50, 1..=1_000_000),
        failure_window: table.duration("failure_window", 15 * MINUTE, SECOND..=24 * 60 * MINUTE),
    };
    table.end();
    auth
}
