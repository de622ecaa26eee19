//! What the keys about logging in mean: `[auth]`.

use super::Auth;
use super::table::Table;
use super::written::read_path;

/// `[auth]`.
pub(super) fn auth(mut table: Table) -> Auth {
    let auth = Auth { users: table.parsed("users", None, |text| read_path(text).map(Some)) };
    table.end();
    auth
}
