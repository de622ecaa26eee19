//! What the keys about users mean: `[auth]`, `[[access.limit]]`, and a listener's role.

use super::error::Place;
use super::table::{Report, Table};
use super::tokens;
use super::unit::{self, Fault};
use super::written::read_path;
use super::{
    Auth, Config, Hourly, Listener, ListenerTls, Login, Network, NetworkLimit, NextHop, Role,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
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
        hourly: hourly(&mut table),
        tokens: tokens::tokens(table.table("tokens")),
    };
    table.end();
    auth
}

fn hourly(table: &mut Table) -> Hourly {
    Hourly {
        messages: table.number("messages_per_hour", 0, 0..=u32::MAX),
        recipients: table.number("recipients_per_hour", 0, 0..=u32::MAX),
    }
}

/// The most networks with limits: they are looked through for each connection.
const LIMITS_MAX: usize = 1000;

/// `[[access.limit]]`.
pub(super) fn limits(access: &mut Table) -> Vec<NetworkLimit> {
    let keys = ["network", "messages_per_hour", "recipients_per_hour"];
    access.none_of("limit").know(&keys);
    let place = access.place_of("limit");
    let tables = access.tables("limit").unwrap_or_default();
    if tables.len() > LIMITS_MAX {
        access.fault(&place, "limit", format!("at most {LIMITS_MAX} networks"));
    }
    let mut limits: Vec<NetworkLimit> = Vec::new();
    for mut table in tables {
        let mut network = Network { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 32 };
        match table.text("network") {
            Some((text, place)) => match unit::read_any_network(&text) {
                Ok(read) => {
                    network = read;
                    if let Some(above) = first_around(network, &limits) {
                        let above = unit::show_network(&above);
                        let what = format!("never reached: the limit of {above} above holds first");
                        table.fault(&place, "network", what);
                    }
                }
                Err(what) => table.fault(&place, "network", what),
            },
            None => {
                let what = "missing; write network = \"192.0.2.0/24\"";
                table.fault(&table.place, "network", what);
            }
        }
        limits.push(NetworkLimit { network, hourly: hourly(&mut table) });
        table.end();
    }
    limits
}

/// The first network of `limits` that all of `network` lies in.
fn first_around(network: Network, limits: &[NetworkLimit]) -> Option<Network> {
    let mut above = limits.iter().map(|limit| limit.network);
    above.find(|above| above.prefix <= network.prefix && above.contains(network.address))
}

/// `auth` of a route or a rule: who we are at its next hop. Rules do not have that of the route: a
/// password is for one host.
pub(super) fn login(table: &mut Table, next_hop: &mut Option<NextHop>, logins: &mut Vec<Login>) {
    let (place, clear_place) = (table.place_of("auth"), table.place_of("auth_without_tls"));
    let file: Option<PathBuf> = table.parsed("auth", None, |text| read_path(text).map(Some));
    let without_tls = table.flag("auth_without_tls", false);
    match (file, next_hop) {
        (Some(file), Some(next_hop)) => {
            let login = Login { file, without_tls };
            let there = logins.iter().position(|other| *other == login);
            let at = there.unwrap_or_else(|| {
                logins.push(login);
                logins.len() - 1
            });
            // There are fewer rules than numbers.
            next_hop.login = u16::try_from(at).ok();
        }
        (Some(_), None) => {
            let what = "a password is for one host; name it as the smart_host or next_hop here";
            table.fault(&place, "auth", what);
        }
        (None, _) if without_tls && place == Place::Default => {
            let what = "without auth; it names the file with user and password";
            table.fault(&clear_place, "auth_without_tls", what);
        }
        (None, _) => {}
    }
}

/// `role` of a listener.
pub(super) fn read_role(text: &str) -> Result<Role, Fault> {
    match text {
        "relay" => Ok(Role::Relay),
        "submission" => Ok(Role::Submission),
        _ => Err(format!("{text:?} is not a role; write \"relay\" or \"submission\"")),
    }
}

impl Role {
    /// As the file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Relay => "relay",
            Role::Submission => "submission",
        }
    }
}

/// Listeners where nobody could ever do what is demanded, or more than the house allows.
pub(super) fn check(config: &Config, report: &Report) {
    for listener in &config.listeners {
        check_submission(config, listener, report);
        let session = &config.session;
        if listener.message_bytes_max.is_some_and(|max| max > session.message_bytes_max) {
            let what = "listener.message_bytes_max must not be more than session.message_bytes_max";
            report.relation(["listener.message_bytes_max", "session.message_bytes_max"], what);
        }
        if listener.recipients_max.is_some_and(|max| max > session.recipients_max) {
            let what = "listener.recipients_max must not be more than session.recipients_max";
            report.relation(["listener.recipients_max", "session.recipients_max"], what);
        }
    }
}

fn check_submission(config: &Config, listener: &Listener, report: &Report) {
    if listener.role != Role::Submission {
        return;
    }
    let address = listener.address;
    if config.auth.users.is_none() && config.auth.tokens.is_none() {
        let what = format!(
            "the submission listener on {address} needs users, and there are none; set auth.users \
             (or --users), or [auth.tokens]"
        );
        report.relation(["listener.role", "auth.users"], what);
    }
    let no_tls = listener.tls == ListenerTls::Off || config.tls.certificates.is_empty();
    if no_tls && !config.auth.without_tls {
        let what = format!(
            "nobody could log in at the submission listener on {address}: it has no TLS; set \
             tls.cert and tls.key, and its tls = \"require\" or \"implicit\" (or \
             auth.without_tls = true)"
        );
        report.relation(["listener.role", "tls.cert"], what);
    }
}
