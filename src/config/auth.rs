//! `[auth]`: who may log in, and how; and the limits by the hour that users and networks share.

use super::declare::table;
use super::kinds::{
    count, duration, flag, inline, minutes, optional, optional_section, path, seconds,
};
use super::tokens::Tokens;
use std::path::PathBuf;
use std::time::Duration;

table! {
    /// Users.
    pub struct Auth {
        /// The users file (also --users FILE), managed with `ringpost user add`, `list`, `remove`
        /// and `verify`. It contains argon2id hashes and SCRAM keys, never passwords. Each [[user]]
        /// may have a list of addresses that the user may send from, senders =
        /// ["joe@example.com", "@example.org"]; without it, any address. The file is read again at
        /// SIGHUP and within a minute after a change. If it is not valid then, the users stay as
        /// they were.
        users: Option<PathBuf> = optional(path("/etc/ringpost/users.toml"));
        /// Offer AUTH without TLS too: passwords and tokens are then sent in the clear. Mechanisms:
        /// SCRAM-SHA-256-PLUS (under TLS; bound to tls-exporter or tls-server-end-point),
        /// SCRAM-SHA-256, PLAIN and LOGIN.
        without_tls: bool = flag(false);
        /// Delay of the reply to a failed attempt.
        failure_delay: Duration = duration(seconds(2), Duration::ZERO..=seconds(30));
        /// Failed attempts from one address (for IPv6, from one /64) in one window. Beyond it,
        /// every attempt from there is refused with 454 4.7.0 until the window ends. No more
        /// attempts are checked at the same time than may still fail.
        failures_per_address: u32 = count(10, 1..=1_000_000);
        /// Failed attempts for one user, from all addresses, in one window. Beyond it every attempt
        /// is refused with 454 4.7.0 until the window ends, except from addresses where this user
        /// has logged in during the window.
        failures_per_user: u32 = count(50, 1..=1_000_000);
        /// The window in which failed attempts are counted.
        failure_window: Duration = duration(minutes(15), seconds(1)..=minutes(24 * 60));
        /// How much a user may send in an hour, unless the users file sets these keys for the user.
        hourly: Hourly = inline();
        /// Tokens.
        tokens: Option<Tokens> = optional_section();
    }
}

table! {
    /// Limits for one hour.
    #[derive(Copy, Eq)]
    pub struct Hourly {
        /// Messages in an hour; 0 is no limit. Beyond it, MAIL is refused with 450 4.7.1. Accepted
        /// messages and open transactions count.
        messages("messages_per_hour"): u32 = count(0, 0..=u32::MAX);
        /// Recipients in an hour; 0 is no limit. Beyond it, RCPT is refused with 452 4.5.3.
        /// Recipients of accepted messages and of open transactions count.
        recipients("recipients_per_hour"): u32 = count(0, 0..=u32::MAX);
    }
}
