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
        /// The users file (also --users FILE), made and changed with `ringpost user add`, `list`,
        /// `remove` and `verify`. It holds argon2id hashes and SCRAM keys, never passwords. Each
        /// [[user]] in it may be given the addresses that the user may send from, senders =
        /// ["joe@example.com", "@example.org"]; without it, all. It is read again at SIGHUP and
        /// within a minute after it has changed. If it cannot be used then, the users stay as they
        /// were.
        users: Option<PathBuf> = optional(path("/etc/ringpost/users.toml"));
        /// Offer AUTH without TLS, too: passwords and tokens then travel where others may read
        /// them. Mechanisms: SCRAM-SHA-256-PLUS (under TLS; bound to tls-exporter or
        /// tls-server-end-point), SCRAM-SHA-256, PLAIN and LOGIN.
        without_tls: bool = flag(false);
        /// Delay of the reply to an attempt that failed.
        failure_delay: Duration = duration(seconds(2), Duration::ZERO..=seconds(30));
        /// Failed attempts from one address (of IPv6: one /64) in one window. Beyond it every
        /// attempt from there is refused with 454 4.7.0 until the window ends. No more attempts are
        /// checked at once than may still fail.
        failures_per_address: u32 = count(10, 1..=1_000_000);
        /// Failed attempts for one user, from all addresses, in one window. Beyond it every attempt
        /// is refused with 454 4.7.0 until the window ends, except from addresses where this user
        /// has logged in during the window.
        failures_per_user: u32 = count(50, 1..=1_000_000);
        /// The window in which failed attempts are counted.
        failure_window: Duration = duration(minutes(15), seconds(1)..=minutes(24 * 60));
        /// What a user may send in an hour, unless the users file has these keys for the user.
        hourly: Hourly = inline();
        /// Tokens.
        tokens: Option<Tokens> = optional_section();
    }
}

table! {
    /// What may be sent in an hour.
    #[derive(Copy, Eq)]
    pub struct Hourly {
        /// Messages in an hour; 0 is no limit. Beyond it MAIL is refused with 450 4.7.1. Accepted
        /// messages count, and open transactions.
        messages("messages_per_hour"): u32 = count(0, 0..=u32::MAX);
        /// Recipients in an hour; 0 is no limit. Beyond it RCPT is refused with 452 4.5.3. Accepted
        /// recipients count, and those of open transactions.
        recipients("recipients_per_hour"): u32 = count(0, 0..=u32::MAX);
    }
}
