//! `[route]` and `[[route.rule]]`: the next hop of each domain, and the policy for the transport.

use super::declare::table;
use super::kinds::{Parsed, Words, choice, count, flag, needed, optional, parsed, path, tables};
use super::table::{Report, Table};
use super::tls::{self, Certificate};
use super::unit::{self, Fault, WrittenHop};
use super::{Config, Listener};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

/// Largest number of rules: they are tried one by one.
const RULES_MAX: usize = 10_000;

table! {
    /// Where mail goes.
    pub(super) struct RouteKeys {
        /// The next hop of all mail that matches no rule (also --smart-host). "mx": the MX hosts of
        /// the domain. "HOST:PORT" or "HOST": this host, without an MX lookup; a name is looked up
        /// in the DNS, never in /etc/hosts (only localhost is known without the DNS).
        /// "smtps://HOST:PORT": the same with TLS from the first byte (port 465 if none is given).
        /// "lmtp://HOST:PORT": delivery to mailboxes by LMTP (RFC 2033; port 24 if none is given,
        /// never 25). A host that is this relay itself is refused.
        smart_host: Hop = next_hop(Hop::Mx);
        /// The port of MX hosts, and of next hops without a port. Ports other than 25 are for
        /// tests.
        port: u32 = count(25, 1..=65_535);
        /// TLS to the next host. "may": if the host offers STARTTLS, without verification; if the
        /// handshake fails, in the clear. "must": never in the clear, without verification.
        /// "must-verify": never in the clear, and only to a host with a valid certificate for its
        /// name (of an MX host, the name in the MX record). "off": none. Mail that cannot be sent
        /// as demanded is deferred (4.7.4, 4.7.5). A message with REQUIRETLS (RFC 8689) goes only
        /// to a host that offers REQUIRETLS and has a valid certificate for its name, whatever this
        /// key says, and is returned at once if there is none (5.7.10, 5.7.30). MX records are not
        /// authenticated yet, so a host found by MX never qualifies. The header field
        /// TLS-Required: No has no effect.
        tls: DeliveryTls = choice(DeliveryTls::May);
        /// 8-bit content for a host that does not offer 8BITMIME. "bounce": it is returned with
        /// 5.6.3 (RFC 6152 3). "convert": it is converted to 7-bit MIME, which breaks a signature
        /// over the whole message (DKIM); if that would break a signature inside the message, it is
        /// returned. "send": it is sent unchanged, which most such hosts accept.
        eight_bit: EightBit = choice(EightBit::Bounce);
        /// Send a message of up to 64 KiB together with its envelope to hosts that offer CHUNKING
        /// (RFC 3030), in one round trip instead of two, at its first attempt. Set it to false for
        /// hosts that offer it but do not support it correctly: then DATA is used, except for
        /// BINARYMIME.
        chunking: bool = flag(true);
        /// The certificate for hosts that ask for one, a PEM file; read again as those of [tls].
        tls_cert: Option<PathBuf> = optional(path("/etc/ringpost/relay.example.net.pem"));
        /// The private key of that certificate, a PEM file.
        tls_key: Option<PathBuf> = optional(path("/etc/ringpost/relay.example.net.key"));
        /// Credentials for the smart host: a file, readable only by its owner, with user = "NAME"
        /// and password = "PASSWORD"; read again as those of [tls]. The mechanism is the first of
        /// SCRAM-SHA-256, PLAIN and LOGIN that the host offers. In place of the password there may
        /// be token_file = "FILE": one line with a token that another program renews (a change is
        /// noticed within a minute); then the mechanism is OAUTHBEARER or XOAUTH2. Without TLS,
        /// nothing is sent and the mail is deferred (4.7.4); it is also deferred when the host
        /// refuses the credentials.
        auth: Option<PathBuf> = optional(path("/etc/ringpost/smarthost.toml"));
        /// Send the password without TLS too.
        auth_without_tls: bool = flag(false);
        /// Rules by domain.
        rule: Vec<RuleKeys> = tables(RULES_MAX);
    }
    check = check_route
}

table! {
    /// A rule by the recipient's domain. Rules are tried in order, and the first that matches
    /// applies; one that can never match is an error. Keys that are not set are taken from [route],
    /// except auth, because credentials are for one host.
    pub(super) struct RuleKeys {
        /// "example.com" is that domain, ".example.com" also its subdomains, "*" every domain.
        domain: Box<str> =
            needed(parsed("domain", ".int.example.com".into(), read_domain, ToString::to_string));
        /// The next hop: as route.smart_host.
        next_hop: Hop = needed(next_hop(Hop::example()));
        /// TLS to the next hop: as route.tls.
        tls: Option<DeliveryTls> = optional(choice(DeliveryTls::Must));
        /// 8-bit content: as route.eight_bit.
        eight_bit: Option<EightBit> = optional(choice(EightBit::Send));
        /// CHUNKING: as route.chunking.
        chunking: Option<bool> = optional(flag(false));
        /// The certificate for hosts that ask for one, a PEM file.
        tls_cert: Option<PathBuf> = optional(path("/etc/ringpost/inside.pem"));
        /// Its private key, a PEM file.
        tls_key: Option<PathBuf> = optional(path("/etc/ringpost/inside.key"));
        /// Credentials for the next hop: as route.auth.
        auth: Option<PathBuf> = optional(path("/etc/ringpost/inside.toml"));
        /// Send the password without TLS too.
        auth_without_tls: bool = flag(false);
    }
    check = check_rules
}

/// Where mail goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The next hop of all mail that matches no rule; `None` is delivery by MX.
    pub smart_host: Option<NextHop>,
    /// Rules by recipient domain; the first that matches applies.
    pub rules: Vec<RouteRule>,
    /// The port for MX hosts and for next hops without a port.
    pub port: u16,
    /// The policy for destinations that match no rule.
    pub policy: TransportPolicy,
    /// The certificates for hosts that ask for one.
    pub certificates: Vec<Certificate>,
    /// The credentials for next hops that require AUTH.
    pub logins: Vec<Login>,
}

/// Credentials for a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The file with the credentials.
    pub file: PathBuf,
    /// Whether they may be sent in the clear.
    pub without_tls: bool,
}

/// TLS with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryTls {
    /// Never.
    Off,
    /// If the host offers it, without verification; in the clear if it fails.
    May,
    /// Never in the clear, without verification.
    Must,
    /// Never in the clear, and the host's certificate must be valid for its name.
    Verify,
}

/// One static route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Lower-case domain; a leading `.` also matches subdomains, `*` alone matches everything.
    pub domain: Box<str>,
    /// The next hop; `None` is delivery by MX even if there is a smart host.
    pub next_hop: Option<NextHop>,
    /// The policy for the transport to it.
    pub policy: TransportPolicy,
}

/// The policy for the transport to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportPolicy {
    /// TLS.
    pub tls: DeliveryTls,
    /// 8-bit content where the host does not offer 8BITMIME.
    pub eight_bit: EightBit,
    /// Small messages are sent by BDAT (RFC 3030), with the envelope, to hosts that offer it.
    pub chunking: bool,
    /// The certificate for hosts that ask for one: its index in [`Route::certificates`].
    pub certificate: Option<usize>,
}

impl TransportPolicy {
    /// The default policy.
    pub const ORDINARY: TransportPolicy = TransportPolicy {
        tls: DeliveryTls::May,
        eight_bit: EightBit::Bounce,
        chunking: true,
        certificate: None,
    };
}

/// 8-bit content where the host does not offer 8BITMIME (RFC 6152 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EightBit {
    /// It is bounced with 5.6.3.
    Bounce,
    /// It is converted to 7-bit, except where that would break a signature in it: then it is
    /// bounced.
    Convert,
    /// It is sent unchanged, against the RFC.
    Send,
}

/// A configured next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// A host name (looked up by address, never by MX) or an IP address.
    pub host: HostName,
    /// TCP port.
    pub port: u16,
    /// The protocol.
    pub scheme: Scheme,
    /// Its credentials: an index in [`Route::logins`].
    pub login: Option<u16>,
}

/// The protocol of a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// SMTP.
    #[default]
    Smtp,
    /// SMTP with TLS from the first byte (RFC 8314), instead of STARTTLS.
    Smtps,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// A host as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostName {
    /// A lower-case domain name.
    Name(Box<str>),
    /// An IP address.
    Address(IpAddr),
}

impl Words for DeliveryTls {
    const WORDS: &'static [(&'static str, DeliveryTls)] = &[
        ("off", DeliveryTls::Off),
        ("may", DeliveryTls::May),
        ("must", DeliveryTls::Must),
        ("must-verify", DeliveryTls::Verify),
    ];
}

impl DeliveryTls {
    /// The value as written in the file.
    pub fn name(self) -> &'static str {
        self.word()
    }
}

/// A next hop as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Hop {
    /// The mail servers of the domain.
    Mx,
    /// A host.
    Host(WrittenHop),
}

impl Hop {
    fn example() -> Hop {
        let host = HostName::Name("mail.inside.example.com".into());
        Hop::Host(WrittenHop { host, port: Some(25), scheme: Scheme::Smtp })
    }

    /// The same with its port filled in.
    fn with_port(&self, port: u32) -> Hop {
        match self {
            Hop::Mx => Hop::Mx,
            Hop::Host(hop) => {
                let hop = WrittenHop { port: Some(hop.port_or(port)), ..hop.clone() };
                Hop::Host(hop)
            }
        }
    }

    fn scheme(&self) -> Option<Scheme> {
        match self {
            Hop::Mx => None,
            Hop::Host(hop) => Some(hop.scheme),
        }
    }
}

fn next_hop(default: Hop) -> Parsed<Hop> {
    let read = |text: &str| match text.eq_ignore_ascii_case("mx") {
        true => Ok(Hop::Mx),
        false => unit::read_next_hop(text).map(Hop::Host),
    };
    let show = |hop: &Hop| match hop {
        Hop::Mx => "mx".to_owned(),
        Hop::Host(hop) => unit::show_next_hop(hop),
    };
    parsed("next hop", default, read, show)
}

impl Words for EightBit {
    const WORDS: &'static [(&'static str, EightBit)] =
        &[("bounce", EightBit::Bounce), ("convert", EightBit::Convert), ("send", EightBit::Send)];
}

impl EightBit {
    /// The value as written in the file.
    pub fn name(self) -> &'static str {
        self.word()
    }
}

fn read_domain(text: &str) -> Result<Box<str>, Fault> {
    let domain = text.to_ascii_lowercase();
    if domain != "*" {
        unit::check_domain(domain.strip_prefix('.').unwrap_or(&domain)).map_err(|why| {
            format!(
                "{domain:?} is not a domain: {why}; \
                 write \"example.com\", \".example.com\" or \"*\""
            )
        })?;
    }
    Ok(domain.into())
}

fn check_route(items: &[RouteKeys], tables: &[Table<'_>]) {
    for (route, table) in items.iter().zip(tables) {
        check_hop(table, "smart_host", &route.smart_host, route.tls);
        if route.auth_without_tls {
            check_without_auth(table);
        } else if table.has("auth") && route.tls == DeliveryTls::Off {
            table.fault(&table.place_of("auth"), "auth", NEVER_SENT);
        }
        for (place, rule) in route.rule.iter().enumerate() {
            if rule.next_hop.scheme() == Some(Scheme::Smtps)
                && rule.tls.is_none()
                && route.tls == DeliveryTls::Off
            {
                let what = format!("rule {}: {}", place + 1, IMPLICIT);
                table.report().relation(["route.tls", "route.rule.next_hop"], what);
            }
            let in_the_clear = rule.tls.is_none() && route.tls == DeliveryTls::Off;
            if in_the_clear && rule.auth.is_some() && !rule.auth_without_tls {
                let what = format!("rule {}: auth: {}", place + 1, NEVER_SENT);
                table.report().relation(["route.tls", "route.rule.auth"], what);
            }
        }
    }
}

/// The first rule that matches applies, so a rule after a wider one would never be reached.
fn check_rules(rules: &[RuleKeys], tables: &[Table<'_>]) {
    let mut earlier: BTreeSet<&str> = BTreeSet::new();
    for (rule, table) in rules.iter().zip(tables) {
        check_hop(table, "next_hop", &rule.next_hop, rule.tls.unwrap_or(DeliveryTls::May));
        if rule.auth_without_tls {
            check_without_auth(table);
        } else if table.has("auth") && rule.tls == Some(DeliveryTls::Off) {
            table.fault(&table.place_of("auth"), "auth", NEVER_SENT);
        }
        let domain = &*rule.domain;
        if !table.has("domain") || table.is_wrong("domain") {
            continue;
        }
        let dotted = format!(".{domain}");
        let above = domain.char_indices().filter(|&(_, c)| c == '.').map(|(at, _)| &domain[at..]);
        let mut covering = ["*", domain, &dotted].into_iter().chain(above);
        if let Some(hiding) = covering.find(|rule| earlier.contains(rule)) {
            let what = format!("never reached: the rule for {hiding:?} above matches first");
            table.fault(&table.place_of("domain"), "domain", what);
        }
        earlier.insert(domain);
    }
}

const IMPLICIT: &str = "smtps:// is TLS from the first byte, and tls is \"off\" here; write \
                        tls = \"must\" or \"must-verify\", or leave smtps:// out";

const NEVER_SENT: &str = "the password is never sent in the clear, and tls is \"off\" here, so no \
                          mail would be delivered; write tls = \"must\" (or auth_without_tls = \
                          true)";

/// Reports next hops that are this relay itself: an address of a listener, or one on loopback where
/// a listener has all addresses.
pub(super) fn check(config: &Config, report: &Report) {
    let route = &config.route;
    if let Some(hop) = &route.smart_host {
        check_is_other(hop, &config.listeners, |what| report.unfit("route.smart_host", 0, what));
    }
    for (number, rule) in route.rules.iter().enumerate() {
        if let Some(hop) = &rule.next_hop {
            let key = "route.rule.next_hop";
            check_is_other(hop, &config.listeners, |what| report.unfit(key, number, what));
        }
    }
}

fn check_is_other(hop: &NextHop, listeners: &[Listener], mut fault: impl FnMut(String)) {
    let own = listeners.iter().map(|listener| listener.address).find(|own| {
        let all = own.ip().is_unspecified();
        own.port() == hop.port
            && match &hop.host {
                HostName::Name(name) => &**name == "localhost" && (all || own.ip().is_loopback()),
                HostName::Address(address) => {
                    let address = address.to_canonical();
                    own.ip().to_canonical() == address
                        || (all && address.is_loopback() && (own.is_ipv6() || address.is_ipv4()))
                }
            }
    });
    if let Some(own) = own {
        fault(format!("this is the relay itself, which listens on {own}; write another host"));
    }
}

/// Checks a next hop against the keys beside it.
fn check_hop(table: &Table<'_>, key: &str, hop: &Hop, tls: DeliveryTls) {
    if tls == DeliveryTls::Off && hop.scheme() == Some(Scheme::Smtps) {
        table.fault(&table.place_of(key), key, IMPLICIT);
    }
    let together = "a certificate (tls_cert) and its key (tls_key) go together";
    tls::check_together(table, ["tls_cert", "tls_key"], together);
    if table.has("auth") && *hop == Hop::Mx && !table.is_wrong(key) {
        let what = format!("credentials are for one host; set {key} to that host");
        table.fault(&table.place_of("auth"), "auth", what);
    }
}

/// Reports `auth_without_tls` without `auth`.
fn check_without_auth(table: &Table<'_>) {
    if !table.has("auth") {
        let what = "has no effect without auth, the file with user and password";
        table.fault(&table.place_of("auth_without_tls"), "auth_without_tls", what);
    }
}

impl RouteKeys {
    /// Fills in the keys that were not written.
    pub fn complete(&mut self) {
        self.smart_host = self.smart_host.with_port(self.port);
        for rule in &mut self.rule {
            rule.next_hop = rule.next_hop.with_port(self.port);
            rule.tls.get_or_insert(self.tls);
            rule.eight_bit.get_or_insert(self.eight_bit);
            rule.chunking.get_or_insert(self.chunking);
            if rule.tls_cert.is_none() {
                rule.tls_cert.clone_from(&self.tls_cert);
                rule.tls_key.clone_from(&self.tls_key);
            }
        }
    }
}

/// The index of `item`, which is added if it is missing.
fn position<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    items.iter().position(|known| *known == item).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}

impl From<&RouteKeys> for Route {
    fn from(keys: &RouteKeys) -> Route {
        let (mut certificates, mut logins) = (Vec::new(), Vec::new());
        let mut certificate =
            |one: Option<Certificate>| one.map(|one| position(&mut certificates, one));
        let mut hop = |hop: &Hop, auth: &Option<PathBuf>, without_tls: bool| {
            let Hop::Host(hop) = hop else { return None };
            let login = auth.clone().map(|file| position(&mut logins, Login { file, without_tls }));
            Some(NextHop {
                host: hop.host.clone(),
                port: hop.port_or(keys.port),
                scheme: hop.scheme,
                // RULES_MAX is less than u16::MAX.
                login: login.and_then(|login| u16::try_from(login).ok()),
            })
        };
        let smart_host = hop(&keys.smart_host, &keys.auth, keys.auth_without_tls);
        let policy = TransportPolicy {
            tls: keys.tls,
            eight_bit: keys.eight_bit,
            chunking: keys.chunking,
            certificate: certificate(tls::pair(&keys.tls_cert, &keys.tls_key)),
        };
        let mut rules = Vec::new();
        for rule in &keys.rule {
            let own = certificate(tls::pair(&rule.tls_cert, &rule.tls_key));
            rules.push(RouteRule {
                domain: rule.domain.clone(),
                next_hop: hop(&rule.next_hop, &rule.auth, rule.auth_without_tls),
                policy: TransportPolicy {
                    tls: rule.tls.unwrap_or(policy.tls),
                    eight_bit: rule.eight_bit.unwrap_or(policy.eight_bit),
                    chunking: rule.chunking.unwrap_or(policy.chunking),
                    certificate: own.or(policy.certificate),
                },
            });
        }
        let port = u16::try_from(keys.port).unwrap_or(25);
        Route { smart_host, rules, port, policy, certificates, logins }
    }
}
