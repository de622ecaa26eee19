//! `[[listener]]`: where the relay listens, and for which clients.

use super::declare::{Entries, Setting, Shape, table};
use super::error::Place;
use super::kinds::{
    Flag, GIB, KIB, MIB, Words, choice, count, flag, noted, optional, parsed, size,
};
use super::table::{Report, Table};
use super::{Config, unit};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Largest number of addresses; every shard listens on each.
pub(super) const LISTENERS_MAX: usize = 1000;

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);

table! {
    /// Where to listen: one table for each address. The default is loopback only, and not port 25,
    /// so that a first test does not conflict with other programs.
    pub struct Listener {
        /// IP address and port; IPv6 addresses in brackets. Port 0 lets the kernel choose one.
        address: SocketAddr =
            parsed("address and port", DEFAULT, unit::read_listen_address, SocketAddr::to_string);
        /// TLS for clients. "offer": clients may use STARTTLS, if there is a certificate in [tls].
        /// "require": no mail before STARTTLS (530 5.7.0). "implicit": TLS from the first byte, as
        /// on port 465 (RFC 8314). "off": none.
        tls: ListenerTls = choice(ListenerTls::Offer);
        /// Clients may say when their mail is sent: MT-PRIORITY (RFC 6710), FUTURERELEASE (RFC
        /// 4865) and DELIVERBY (RFC 2852). Only for listeners whose clients are trusted: a client
        /// that may raise its own priority will do so. With MAIL ... BY=600;R a message that is not
        /// delivered in ten minutes is returned (5.4.7), and it goes only to hosts that offer
        /// DELIVERBY themselves, as the RFC demands; few do, so use R only for next hops that are
        /// known to. With BY=600;N the sender gets a report at that time (unless the relay is down
        /// then), and delivery is tried further; with T there is also a report of every relaying.
        /// BY must be later than HOLDFOR or HOLDUNTIL.
        scheduling: bool = Scheduling;
        /// Ask clients for a certificate, and let them log in with it by AUTH EXTERNAL. The users
        /// file names a user's certificates by SHA-256 fingerprint, certificates = ["AB:CD:..."],
        /// and then any issuer will do; or by a name in a certificate that one of tls.client_roots
        /// has issued, certificate_names = ["email:joe@example.com", "dns:host.example.com",
        /// "uri:spiffe://example.com/joe"]. Such a name is a whole entry of the subjectAltName:
        /// domains in any letter case, no pattern, never the common name. The certificate must be
        /// within its validity period and for clients (extended key usage clientAuth, or none). If
        /// it has names of several users, the client must say which user it is.
        client_certificates: bool = flag(false);
        /// Which clients it is for. "relay": other servers, and clients in access.relay_networks;
        /// their mail is not changed. "submission": only users that have logged in (530 5.7.0
        /// before AUTH), usually on port 587 with tls = "require" and on port 465 with tls =
        /// "implicit" (RFC 6409, RFC 8314). There, a message without Date or Message-ID gets one,
        /// and From and Sender must be among the user's senders (550 5.7.1). For users with
        /// senders, the header must be unambiguous: only fields, one From, at most one Sender,
        /// addresses by RFC 5322, no groups (550 5.6.0, 550 5.7.1).
        role: Role = choice(Role::Relay);
        /// Size of a message here, at most that of [session], which is the default.
        message_bytes_max: Option<u64> = optional(size(10 * MIB, 64 * KIB..=2 * GIB));
        /// Recipients of one message here, at most those of [session], which are the default.
        recipients_max: Option<usize> = optional(count(100, 100..=10_000));
    }
    check = check_addresses
}

/// TLS on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    /// Not offered.
    Off,
    /// STARTTLS is offered, if there is a certificate.
    Offer,
    /// No mail before STARTTLS.
    Require,
    /// TLS from the first byte (RFC 8314).
    Implicit,
}

/// Which clients a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Other servers, and clients in the relay networks. Messages are not changed.
    Relay,
    /// Users, who must log in; their messages are completed (RFC 6409).
    Submission,
}

impl Words for ListenerTls {
    const WORDS: &'static [(&'static str, ListenerTls)] = &[
        ("off", ListenerTls::Off),
        ("offer", ListenerTls::Offer),
        ("require", ListenerTls::Require),
        ("implicit", ListenerTls::Implicit),
    ];
}

impl Words for Role {
    const WORDS: &'static [(&'static str, Role)] =
        &[("relay", Role::Relay), ("submission", Role::Submission)];
}

impl Role {
    /// The value as written in the file.
    pub fn name(self) -> &'static str {
        self.word()
    }
}

/// A flag that is true by default where the role is submission.
struct Scheduling;

impl Setting<bool> for Scheduling {
    /// `role` is declared, and so read, after this key.
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> bool {
        let default = table.unread_text("role") == Some(Role::Submission.word());
        table.flag(key, default)
    }

    fn show(&self, value: &bool, key: &'static str, into: &mut Entries) {
        Setting::<bool>::show(&flag(false), value, key, into);
    }

    fn shape(&self) -> Shape {
        Setting::<bool>::shape(&noted::<Flag>("true where role is \"submission\"", flag(false)))
    }
}

fn check_addresses(listeners: &[Listener], tables: &[Table<'_>]) {
    let place = |table: &Table<'_>| match table.place_of("address") {
        Place::Default => table.place.clone(),
        place => place,
    };
    for (position, (listener, table)) in listeners.iter().zip(tables).enumerate() {
        // Port 0 is a different port each time.
        let address = listener.address;
        if address.port() == 0 || table.is_wrong("address") {
            continue;
        }
        let mut before = listeners.iter().zip(tables).take(position);
        let twice = before.find(|(other, of)| other.address == address && !of.is_wrong("address"));
        if let Some((_, other)) = twice {
            let before = match place(other) {
                Place::File { line, .. } => format!(": also in line {line}"),
                _ => String::new(),
            };
            let what = format!("\"{address}\" is listened on twice{before}");
            table.fault(&place(table), "address", what);
        }
    }
}

/// Checks listeners against other tables: a listener that demands what no client can do, or allows
/// more than [session].
pub(super) fn check(config: &Config, report: &Report) {
    let needs =
        |listener: &&Listener| matches!(listener.tls, ListenerTls::Require | ListenerTls::Implicit);
    if config.tls.certificates.is_empty()
        && let Some(listener) = config.listeners.iter().find(needs)
    {
        let what = format!(
            "the listener on {} needs a certificate, but there is none; set tls.cert and tls.key \
             (or --tls-cert and --tls-key), or its tls = \"offer\"",
            listener.address
        );
        report.relation(["listener.tls", "tls.cert"], what);
    }
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
            "the submission listener on {address} needs users, but there are none; set auth.users \
             (or --users), or [auth.tokens]"
        );
        report.relation(["listener.role", "auth.users"], what);
    }
    let no_tls = listener.tls == ListenerTls::Off || config.tls.certificates.is_empty();
    if no_tls && !config.auth.without_tls {
        let what = format!(
            "no client could log in at the submission listener on {address}: it has no TLS; set \
             tls.cert and tls.key, and its tls = \"require\" or \"implicit\" (or \
             auth.without_tls = true)"
        );
        report.relation(["listener.role", "tls.cert"], what);
    }
}
