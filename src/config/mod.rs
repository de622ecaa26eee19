//! What the operator wrote (TOML, flags) and what it means (checked, with units).
//!
//! `written` is the schema of the file; [`Config`] is what every other room reads. Nothing here
//! knows what the values are used for.

mod auth;
mod core_table;
mod error;
mod load;
mod private;
mod render;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod unit;
mod written;

pub use error::{ConfigError, Place, Problem};
pub use load::Machine;
pub use private::look_at_private;
#[cfg(test)]
pub use private::write_private;
pub use source::{Override, OverrideFlag};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The whole checked configuration. Made once at start and shared, read-only, by all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name that the relay gives itself: greeting, EHLO reply, Received, EHLO to next hops.
    pub host_name: Arc<str>,
    /// One per shard, in shard order; never empty.
    pub cores: Vec<Core>,
    /// Addresses to listen on, each on every shard; never empty.
    pub listeners: Vec<Listener>,
    /// Certificates, and whose to believe.
    pub tls: Tls,
    /// Who may relay.
    pub access: Access,
    /// Who may log in, and how.
    pub auth: Auth,
    /// The receiving side.
    pub session: Session,
    /// The disk side.
    pub spool: Spool,
    /// When to try again.
    pub retry: Retry,
    /// Name servers.
    pub dns: Dns,
    /// Which next hop.
    pub route: Route,
    /// Connections to next hops.
    pub pool: Pool,
    /// The sending side.
    pub delivery: Delivery,
    /// The event log.
    pub event: Event,
    /// The operator's socket and the stop.
    pub control: Control,
    /// The driver.
    pub ring: Ring,
}

/// One shard's own settings: `[[core]]` laid over the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Core {
    /// The CPU that the shard is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// The shard's spool directory: by default `shard-N` below `spool.directory`.
    pub spool: PathBuf,
    /// Inbound connections that this shard holds at once, at most.
    pub connections_max: usize,
    /// Bytes of accepted content that this shard keeps in memory for a first attempt, at most.
    pub hot_bytes_max: usize,
    /// Bytes of content on its way in that this shard keeps in memory, at most; beyond it content
    /// is written to the disk as it comes.
    pub content_bytes_max: usize,
    /// Recipients that may wait in this shard's queue, about; beyond it no more mail is taken.
    pub queue_recipients_max: usize,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose one.
    pub address: SocketAddr,
    /// What clients may and must do to be protected.
    pub tls: ListenerTls,
    /// Clients may say when their mail is to be sent: MT-PRIORITY, FUTURERELEASE.
    pub scheduling: bool,
    /// Clients are asked for a certificate, and users known by theirs.
    pub client_certificates: bool,
    /// Whom it is for.
    pub role: Role,
    /// Message size in bytes here; `None` is that of `session`.
    pub message_bytes_max: Option<u64>,
    /// Recipients per transaction here; `None` is that of `session`.
    pub recipients_max: Option<usize>,
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Other servers, and clients in the relay networks. Nothing is changed.
    Relay,
    /// Users, who say who they are; their messages are completed (RFC 6409).
    Submission,
}

/// What may be sent in an hour; 0 is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hourly {
    /// Messages.
    pub messages: u32,
    /// Recipients.
    pub recipients: u32,
}

/// What the clients of a network may send, all together, unless they log in.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkLimit {
    /// The network; the first that holds a client is his.
    pub network: Network,
    /// How much.
    pub hourly: Hourly,
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
    /// From the first byte (RFC 8314).
    Implicit,
}

/// Certificates, and whose to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What listeners show; the first to clients that ask for no name, or one that none has.
    pub certificates: Vec<Certificate>,
    /// TLS 1.2 is not spoken.
    pub only_1_3: bool,
    /// Whom to believe about the names of servers.
    pub roots: Roots,
    /// The file with those whom to believe about the names of clients; without it nobody.
    pub client_roots: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM file: the relay's own certificate, then those between it and the root.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Root certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of this machine.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// Who may relay.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Client networks that may send to any domain.
    pub relay_networks: Vec<Network>,
    /// Limits by network.
    pub limits: Vec<NetworkLimit>,
    /// Proxies, whose connections begin with a PROXY header.
    pub proxy_networks: Vec<Network>,
    /// Proxies that may say with XCLIENT who their client is.
    pub xclient_networks: Vec<Network>,
}

impl Access {
    /// Whether a client at `address` may relay. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn may_relay(&self, address: IpAddr) -> bool {
        self.relay_networks.iter().any(|network| network.contains(address))
    }

    /// Whether a connection from `address` begins with a PROXY header.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxy_networks.iter().any(|network| network.contains(address))
    }

    /// Whether a client at `address` may use XCLIENT.
    pub fn may_xclient(&self, address: IpAddr) -> bool {
        self.xclient_networks.iter().any(|network| network.contains(address))
    }
}

/// Who may log in, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// The users file; `None` when nobody may.
    pub users: Option<PathBuf>,
    /// AUTH is offered in the clear, too.
    pub without_tls: bool,
    /// The reply to an attempt that failed comes so late.
    pub failure_delay: Duration,
    /// Failures from one address in a window; then none is listened to until its end.
    pub failures_per_address: u32,
    /// The same for one user, but where he has been right in this window.
    pub failures_per_user: u32,
    /// How long failures are remembered.
    pub failure_window: Duration,
    /// What a user may send, unless the users file says otherwise.
    pub hourly: Hourly,
    /// Who vouches for tokens; `None` when they are not taken.
    pub tokens: Option<Tokens>,
}

/// Who is asked whose a token is (RFC 7662), and what it must be good for.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The URL that is asked: https, or http on this machine.
    pub introspection_endpoint: Box<str>,
    /// Who we are there.
    pub client_id: Box<str>,
    /// The file with our password there.
    pub client_secret_file: PathBuf,
    /// Whose word is good for its name.
    pub roots: Roots,
    /// Wait for an answer, all in all.
    pub timeout: Duration,
    /// The member of the answer that names the user.
    pub user_field: Box<str>,
    /// What the token must be good for: words, all of which are demanded.
    pub scope: Option<Box<str>>,
    /// Whom it must be for.
    pub audience: Option<Box<str>>,
    /// What clients without a good token are told to look at.
    pub openid_configuration: Option<Box<str>>,
    /// That a token is good is believed for so long without asking again.
    pub ttl_max: Duration,
}

/// An address block in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the block.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32 or 0 to 128.
    pub prefix: u8,
}

impl Network {
    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(one)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (u64::from(block.to_bits()) >> shift) == (u64::from(one.to_bits()) >> shift)
            }
            (IpAddr::V6(block), IpAddr::V6(one)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                block.to_bits().checked_shr(shift) == one.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// The receiving side: limits and their reactions are described in the annotated example.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Message size in bytes, declared or actual; beyond it 552 5.3.4.
    pub message_bytes_max: u64,
    /// Recipients per transaction; beyond it 452 4.5.3.
    pub recipients_max: usize,
    /// A command line with its CRLF, in bytes; beyond it 500 5.5.6.
    pub command_line_max: usize,
    /// A line of content with its CRLF, in bytes; beyond it the message is refused with 554 5.6.0.
    pub text_line_max: usize,
    /// Refused commands since the last accepted message; beyond it 421 4.7.0 and close.
    pub errors_max: u32,
    /// Received fields in a message; beyond it 554 5.4.6.
    pub received_max: u32,
    /// Messages in one session; beyond it 421 4.7.0 and close. 0 is no bound.
    pub messages_max: u32,
    /// VRFY is answered with 252; otherwise with 502.
    pub vrfy: bool,
    /// Longest time that a client may have a message held for (RFC 4865); beyond it 501 5.5.4.
    pub hold_max: Duration,
    /// Waiting for a command: then 421 4.4.2 and close.
    pub command_timeout: Duration,
    /// Waiting for more content: then 421 4.4.2 and close.
    pub data_timeout: Duration,
    /// A TLS handshake as a whole: then close.
    pub tls_timeout: Duration,
    /// Connections from one client address to one shard outside the relay networks.
    pub connections_per_client: usize,
    /// The same for addresses in the relay networks.
    pub connections_per_relay_client: usize,
}

/// The disk side.
#[derive(Clone, Debug, PartialEq)]
pub struct Spool {
    /// The folder that holds the lock, the control socket by default, and each shard's folder.
    pub directory: PathBuf,
    /// Size of a segment file in bytes.
    pub segment_bytes: u64,
    /// Content of one message beyond this is written as it arrives instead of being held.
    pub stream_threshold: usize,
    /// An outcome waits at most this long for a commit to ride in.
    pub outcome_interval: Duration,
}

/// The retry schedule: attempt n+1 is due `first * factor^(n-1)` after attempt n, at most `max`,
/// give or take `jitter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Wait after the first attempt.
    pub first: Duration,
    /// Growth from wait to wait; at least 1.
    pub factor: f64,
    /// Longest wait.
    pub max: Duration,
    /// A recipient still waiting this long after reception is given up.
    pub expire: Duration,
    /// Fraction of each wait by which it is varied at random: 0 to 0.5.
    pub jitter: f64,
    /// Senders who ask for it (NOTIFY=DELAY) are told so long after reception of what still waits;
    /// `None` is never.
    pub delay_report: Option<Duration>,
}

/// Name servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Resolvers to ask, in order; never empty.
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer.
    pub timeout: Duration,
    /// Rounds over all servers before giving up.
    pub attempts: u32,
    /// Answers kept per shard.
    pub cache_entries_max: usize,
    /// An answer is kept at most this long, whatever its TTL.
    pub ttl_max: Duration,
    /// A failure (SERVFAIL, time-out) is kept this long.
    pub failure_ttl: Duration,
}

/// Which next hop.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where everything goes that no rule names; `None` is delivery by MX.
    pub smart_host: Option<NextHop>,
    /// Rules by recipient domain; the first that matches holds.
    pub rules: Vec<RouteRule>,
    /// The port for MX hosts and for next hops that name none.
    pub port: u16,
    /// What holds on the way to destinations that no rule names.
    pub policy: TransportPolicy,
    /// Those that are shown to hosts.
    pub certificates: Vec<Certificate>,
    /// Who we are at next hops that want to know, by place.
    pub logins: Vec<Login>,
}

/// A name and a password for a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The file that has them.
    pub file: PathBuf,
    /// They may go in the clear.
    pub without_tls: bool,
}

/// TLS with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryTls {
    /// Never.
    Off,
    /// If the host offers it, whoever it is; in the clear if it fails.
    May,
    /// Never in the clear, but whoever it is.
    Must,
    /// Never in the clear, and the host's certificate must be good for its name.
    Verify,
}

/// One static route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Lower-case domain; a leading `.` also matches all below it, `*` alone matches everything.
    pub domain: Box<str>,
    /// Where its mail goes; `None` is delivery by MX in spite of a smart host.
    pub next_hop: Option<NextHop>,
    /// What holds on the way there.
    pub policy: TransportPolicy,
}

/// What holds on the way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportPolicy {
    /// TLS.
    pub tls: DeliveryTls,
    /// 8-bit content where the host does not offer 8BITMIME.
    pub eight_bit: EightBit,
    /// Small messages go by BDAT (RFC 3030), with the envelope, to hosts that offer it.
    pub chunking: bool,
    /// The certificate that is shown to hosts that ask for one: its place in
    /// [`Route::certificates`].
    pub certificate: Option<usize>,
}

impl TransportPolicy {
    /// What holds where nothing is said.
    pub const ORDINARY: TransportPolicy = TransportPolicy {
        tls: DeliveryTls::May,
        eight_bit: EightBit::Bounce,
        chunking: true,
        certificate: None,
    };
}

/// What becomes of 8-bit content where the host does not offer 8BITMIME (RFC 6152 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EightBit {
    /// It is bounced with 5.6.3.
    Bounce,
    /// It is made 7-bit, except where that would break a signature in it: then it is bounced.
    Convert,
    /// It is sent as it is, against the RFC.
    Send,
}

impl EightBit {
    /// As the file writes it.
    pub fn name(self) -> &'static str {
        match self {
            EightBit::Bounce => "bounce",
            EightBit::Convert => "convert",
            EightBit::Send => "send",
        }
    }
}

/// A named place to deliver to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// A host name (looked up by address, never by MX) or an IP address.
    pub host: HostName,
    /// TCP port.
    pub port: u16,
    /// How to speak to it.
    pub scheme: Scheme,
    /// Who we are there: a place in [`Route::logins`].
    pub login: Option<u16>,
}

/// How to speak to a next hop.
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

/// Connections to next hops: static limits per site, over all shards together.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Connections to one site.
    pub connections_per_site: usize,
    /// Messages over one connection; then it is closed and a new one opened.
    pub messages_per_connection: u32,
    /// An idle connection is closed after this.
    pub idle: Duration,
    /// A site with at least this many connections for each shard is striped over the shards.
    pub stripe_connections_min: usize,
    /// Outbound connections of one shard, at most.
    pub connections_max: usize,
}

/// The sending side; the time-outs are those of RFC 5321 4.5.3.2.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// TCP connection.
    pub connect_timeout: Duration,
    /// A TLS handshake as a whole.
    pub tls_timeout: Duration,
    /// The greeting.
    pub greeting_timeout: Duration,
    /// The reply to EHLO, HELO, RSET, QUIT.
    pub hello_timeout: Duration,
    /// The reply to MAIL.
    pub mail_timeout: Duration,
    /// The reply to RCPT.
    pub recipient_timeout: Duration,
    /// The 354.
    pub data_timeout: Duration,
    /// Each block of content sent.
    pub content_timeout: Duration,
    /// The reply to the final dot.
    pub end_of_data_timeout: Duration,
    /// Recipients in one transaction.
    pub recipients_max: usize,
}

/// The event log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where events go.
    pub output: EventOutput,
    /// A file is rotated at this size in bytes.
    pub rotate_bytes: u64,
    /// Rotated files kept.
    pub keep: usize,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum EventOutput {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file; rotated ones get `.1`, `.2` ... behind the name.
    File(PathBuf),
}

/// The operator's socket and the stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// The Unix socket.
    pub socket: PathBuf,
    /// After SIGTERM, transactions may finish for this long.
    pub stop_within: Duration,
}

/// The driver.
#[derive(Clone, Debug, PartialEq)]
pub struct Ring {
    /// Entries of each submission ring; a power of two.
    pub depth: usize,
    /// A busy shard looks at its rings at least this often.
    pub preempt: Duration,
}
