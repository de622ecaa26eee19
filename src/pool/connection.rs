//! One connection to one host: bytes between a `ring` stream and a `delivery` conversation.

use super::content::{self, ContentSender, loss_of};
use super::exchange::{Job, Reporter, Reports};
use super::fallback::{Broken, Fallbacks};
use crate::config::{Config, Scheme};
use crate::credentials::OutboundCredentials;
use crate::delivery::{
    Conversation, Converted, Finality, HostFailure, Login, Loss, Mail, Manner, Policy, Protocol,
    RecipientOutcome, Scope, StartTls, Step, Telling,
};
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring::{self, RecvBuf, Stream};
use crate::route::{Candidate, CredentialsId, SiteKey, TlsPolicy, Transport};
use crate::sasl::encode;
use crate::smtp::{commands_shown, one_line, replies_shown};
use crate::tls::{Client, MaybeTlsStream, Security, Trust};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Replies are short; a longer one is consumed line by line.
const RECEIVE_BYTES: usize = 8 * 1024;
/// After QUIT the reply is awaited no longer than this (RFC 5321 4.1.1.10 asks to wait for it).
const QUIT_WAIT: Duration = Duration::from_secs(5);

/// What holds for all connections to a site.
pub(super) struct TlsProfile<'a> {
    pub(super) config: &'a Config,
    pub(super) policy: &'a Rc<Policy>,
    pub(super) client: &'a Client,
    /// The key of the site.
    pub(super) site: &'a SiteKey,
    pub(super) transport: &'a Transport,
    /// Credentials for hosts that require AUTH.
    pub(super) logins: Option<&'a OutboundCredentials>,
    /// What is known not to work at hosts.
    pub(super) fallbacks: &'a RefCell<Fallbacks>,
}

/// Whether content may leave with the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentAhead {
    Allowed,
    /// Something failed in this attempt already.
    Not,
}

/// Whether commands go out before their replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commands {
    /// Where the host offers PIPELINING and is not known to break at it.
    Pipelined,
    OneByOne,
}

/// How a host is talked to, as far as a failure may change it.
struct Plan {
    starttls: StartTls,
    commands: Commands,
    /// No earlier session is taken up.
    full_handshake: bool,
}

/// Why there is no connection.
enum Failure {
    /// TLS failed.
    Tls {
        reason: Reason,
        /// By what the host showed or said, and not on its profile.
        is_final: bool,
        /// The handshake offered to take up an earlier session.
        offered_session: bool,
    },
    /// Anything else.
    Other(HostFailure),
}

impl Failure {
    fn into_host_failure(self) -> HostFailure {
        match self {
            Failure::Tls { reason, .. } => HostFailure::of_conversation(reason),
            Failure::Other(failure) => failure,
        }
    }
}

/// A connection that has passed greeting and EHLO.
pub(super) struct Connection {
    stream: MaybeTlsStream,
    input: RecvBuf,
    output: Vec<u8>,
    pub(super) conversation: Conversation,
    security: Option<Arc<Security>>,
    /// The generation of the trusted roots that its certificate was verified by, if it was.
    verified_by: Option<u64>,
    lmtp: bool,
    /// Content may go out with the envelope.
    chunking: bool,
    /// Transactions begun on it.
    pub(super) transactions: u32,
    /// Where it leads.
    pub(super) candidate: Candidate,
}

/// What one transaction did.
pub(super) struct Transacted {
    /// What became of the recipients.
    pub(super) outcomes: Vec<RecipientOutcome>,
    /// To be sent again at once.
    pub(super) again: Vec<u32>,
    /// The connection is gone.
    pub(super) lost: bool,
}

impl Transacted {
    /// All of `recipients` have the same outcome, and the connection is gone.
    pub(super) fn lost_with(recipients: &[u32], outcome: &Outcome, scope: Scope) -> Transacted {
        let one = |&index| RecipientOutcome { index, outcome: outcome.clone(), scope };
        let outcomes = recipients.iter().map(one).collect();
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// The content cannot be read. Nothing was said to the host.
    fn unreadable(recipients: &[u32], error: &io::Error) -> Transacted {
        let text = format!("the message could not be read here: {error}");
        let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX);
        let outcome = Outcome::Deferred(Reason::ours(Stage::Local, Status(4, 3, 0), text));
        Transacted::lost_with(recipients, &outcome, Scope::Message)
    }

    /// The host closed the connection and said of no recipient more than that.
    pub(super) fn is_hang_up(&self) -> Option<&Reason> {
        let says_nothing = |one: &RecipientOutcome| {
            let reason = one.outcome.reason();
            matches!(reason.code, 0 | 421)
                && matches!(one.scope, Scope::Transaction | Scope::Recipient)
        };
        let all = self.lost && self.again.is_empty() && self.outcomes.iter().all(says_nothing);
        self.outcomes.first().filter(|_| all).map(|first| first.outcome.reason())
    }

    /// Something was said about the connection alone: for all recipients a new one is needed.
    pub(super) fn is_about_connection(&self) -> bool {
        self.again.is_empty() && self.outcomes.iter().all(|one| one.scope == Scope::Connection)
    }
}

impl Connection {
    /// Connects to one candidate and brings it to the point where mail can be sent, within `left`
    /// at the latest. What does not work there is done without: see [`super::fallback`].
    ///
    /// # Errors
    /// What keeps this host from taking mail.
    pub(super) async fn open(
        candidate: &Candidate,
        profile: &TlsProfile<'_>,
        commands: Commands,
        left: Duration,
    ) -> Result<Connection, HostFailure> {
        let until = ring::now() + left;
        let broken = |what| {
            profile.fallbacks.borrow().is_broken(candidate.address, what, ring::wall_clock())
        };
        let starttls = match profile.transport.tls {
            _ if profile.transport.protocol == Scheme::Smtps => StartTls::Never,
            TlsPolicy::Off => StartTls::Never,
            TlsPolicy::Opportunistic if broken(Broken::Tls) => StartTls::Never,
            TlsPolicy::Opportunistic => StartTls::IfOffered,
            TlsPolicy::Mandatory(_) | TlsPolicy::RequireTls => StartTls::Always,
        };
        let commands = if broken(Broken::Pipelining) { Commands::OneByOne } else { commands };
        let full_handshake = broken(Broken::Resumption);
        let mut plan = Plan { starttls, commands, full_handshake };
        let remember = |what, reason: &Reason| {
            let (address, now) = (candidate.address, ring::wall_clock());
            profile.fallbacks.borrow_mut().remember(
                address,
                profile.site,
                what,
                reason.clone(),
                now,
            );
        };
        // Each turn changes the plan, so there are three at most. The connection that failed is of
        // no use in any case.
        loop {
            let left = until.saturating_duration_since(ring::now());
            let failure = match Connection::open_with(candidate, profile, &plan, left).await {
                Ok(connection) if profile.transport.tls != TlsPolicy::RequireTls => {
                    return Ok(connection);
                }
                Ok(connection) => return connection.for_require_tls().await,
                Err(failure) => failure,
            };
            match failure {
                Failure::Tls { reason, offered_session: true, .. } if !plan.full_handshake => {
                    tracing::debug!(%reason, "a resumed TLS session failed: full handshake");
                    remember(Broken::Resumption, &reason);
                    plan.full_handshake = true;
                }
                Failure::Tls { reason, .. } if plan.starttls == StartTls::IfOffered => {
                    tracing::debug!(%reason, "no TLS: in the clear");
                    if reason.code == 0 {
                        remember(Broken::Tls, &reason);
                    }
                    plan.starttls = StartTls::Never;
                }
                failure if profile.transport.tls == TlsPolicy::RequireTls => {
                    return Err(without_tls(failure));
                }
                failure => return Err(failure.into_host_failure()),
            }
        }
    }

    /// This connection, if mail that demands REQUIRETLS may go there (RFC 8689 4.2.1); 5.7.30
    /// otherwise.
    async fn for_require_tls(self) -> Result<Connection, HostFailure> {
        if self.conversation.meets_require_tls() {
            return Ok(self);
        }
        let text = "the message demands REQUIRETLS, and the host does not offer it";
        let reason = Reason {
            remote: self.conversation.remote().into(),
            ..Reason::ours(Stage::Tls, Status(5, 7, 30), text)
        };
        self.quit().await;
        Err(HostFailure { reason, telling: Telling::Reply, finality: Finality::Never })
    }

    async fn open_with(
        candidate: &Candidate,
        profile: &TlsProfile<'_>,
        plan: &Plan,
        left: Duration,
    ) -> Result<Connection, Failure> {
        let remote = remote_name(candidate);
        let limits = &profile.config.delivery;
        let wait = limits.connect_timeout.min(left);
        let stream = Stream::connect(candidate.address, None, wait)
            .await
            .map_err(|error| Failure::Other(connect_failed(&error, remote.clone())))?;
        let protocol = match profile.transport.protocol {
            Scheme::Smtp | Scheme::Smtps => Protocol::Smtp,
            Scheme::Lmtp => Protocol::Lmtp,
        };
        let manner = Manner {
            protocol,
            starttls: plan.starttls,
            verified: profile.transport.tls.is_verified(),
            eight_bit: profile.transport.eight_bit,
            pipelining: plan.commands == Commands::Pipelined,
        };
        let mut connection = Connection {
            stream: MaybeTlsStream::new(stream),
            input: RecvBuf::with_capacity(RECEIVE_BYTES),
            output: Vec::new(),
            conversation: Conversation::new(Rc::clone(profile.policy), remote, manner),
            security: None,
            verified_by: None,
            lmtp: protocol == Protocol::Lmtp,
            chunking: profile.transport.chunking,
            transactions: 0,
            candidate: candidate.clone(),
        };
        if profile.transport.protocol == Scheme::Smtps {
            connection.shake_hands(candidate, profile, plan, left).await?;
            connection.conversation.secured_from_the_start();
        }
        if let Some(CredentialsId(place)) = profile.transport.credentials {
            let login = login(profile.logins, place).ok_or_else(|| {
                let text = "our login for this host is not there";
                let reason = Reason::ours(Stage::Local, Status(4, 3, 5), text);
                Failure::Other(HostFailure::of_conversation(reason))
            })?;
            connection.conversation.log_in_as(login);
        }
        // Each reply has its time; greeting, EHLO and HELO together have no more than this.
        let in_time = limits.greeting_timeout + 2 * limits.hello_timeout;
        let mut talked = within(in_time.min(left), connection.talk()).await;
        if let Some(Ok(Step::StartTls)) = talked {
            // Nothing that came before the handshake counts.
            connection.input.consume(usize::MAX);
            connection.shake_hands(candidate, profile, plan, left).await?;
            connection.conversation.secured(&mut connection.output);
            talked = within(limits.hello_timeout.min(left), connection.talk()).await;
        }
        while let Some(Ok(Step::Prove(proof))) = talked {
            let proved = match profile.logins {
                Some(logins) => logins.work(move || proof.work()).await,
                None => None,
            };
            connection.conversation.proved(proved, &mut connection.output);
            talked = within(limits.hello_timeout.min(left), connection.talk()).await;
        }
        let reason = match talked.unwrap_or(Err(Loss::TimedOut)) {
            Ok(Step::Ready) => return Ok(connection),
            Ok(Step::Unusable(outcome)) => {
                connection.finish_output().await;
                outcome.reason().clone()
            }
            Ok(_) => connection.conversation.lost(Loss::Closed("closed by the host".into())).1,
            Err(loss) => connection.conversation.lost(loss).1,
        };
        Err(connection.failed(reason))
    }

    /// Why this connection, which has not carried mail yet, is of no use.
    fn failed(&self, reason: Reason) -> Failure {
        let offered_session = self.stream.offered_session();
        match (reason.stage, reason.code) {
            // STARTTLS was not answered, not with a reply, or the host closes the connection.
            (Stage::Tls, 0 | 421) => Failure::Tls { reason, is_final: false, offered_session },
            // With TLS 1.3 a host that does not like the handshake says so only after it.
            (Stage::Hello | Stage::Greeting, 0)
                if self.security.is_some() && reason.status != Conversation::NOT_PROTECTED =>
            {
                let text = format!("TLS broke after the handshake: {}", reason.text);
                let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX).into();
                let (stage, status) = (Stage::Tls, Status(4, 7, 5));
                let reason = Reason { stage, status, text, ..reason };
                Failure::Tls { reason, is_final: false, offered_session }
            }
            _ => Failure::Other(HostFailure::of_conversation(reason)),
        }
    }

    /// Puts TLS around the connection.
    async fn shake_hands(
        &mut self,
        candidate: &Candidate,
        profile: &TlsProfile<'_>,
        plan: &Plan,
        left: Duration,
    ) -> Result<(), Failure> {
        let is_verified = profile.transport.tls.is_verified();
        let trust = if is_verified { Trust::Verified } else { Trust::Anyone };
        let ours = profile.transport.certificate;
        let wait = profile.config.delivery.tls_timeout.min(left);
        self.verified_by = (trust == Trust::Verified).then(|| profile.client.generation());
        if plan.full_handshake {
            profile.client.forget_session(trust, ours, &candidate.host);
        }
        let shaken = self.stream.connect(profile.client, trust, ours, &candidate.host, wait).await;
        shaken.map_err(|error| Failure::Tls {
            is_final: error.kind() == io::ErrorKind::InvalidData,
            reason: tls_failed(&error, remote_name(candidate)),
            offered_session: self.stream.offered_session(),
        })?;
        self.security = self.stream.security().map(Arc::new);
        Ok(())
    }

    /// Who reports on what it takes.
    pub(super) fn reports(&self) -> Reports {
        let offered = self.conversation.capabilities();
        let on_success = match (offered.dsn, self.lmtp) {
            (true, _) => Reporter::NextHop,
            (false, false) => Reporter::Relayed,
            (false, true) => Reporter::Delivered,
        };
        Reports { on_success, to_mailboxes: self.lmtp, keeps_time: offered.deliver_by.is_some() }
    }

    /// Transactions that it may have in all, as far as the host says (RFC 9422).
    pub(super) fn transactions_max(&self) -> u32 {
        self.conversation.capabilities().mails_max.unwrap_or(u32::MAX)
    }

    /// Whether what vouched for it, if anything did, is still trusted.
    pub(super) fn is_trusted(&self, client: &Client) -> bool {
        self.verified_by.is_none_or(|generation| generation == client.generation())
    }

    /// What protects it.
    pub(super) fn security(&self) -> Option<Arc<Security>> {
        self.security.clone()
    }

    /// Sends one message to `recipients` of `job`; `content` says how. Only on a connection that is
    /// ready.
    pub(super) async fn transact(
        &mut self,
        job: &Job,
        recipients: &[u32],
        ahead: ContentAhead,
    ) -> Transacted {
        self.transactions += 1;
        let mut mail = mail_of(job, recipients);
        // A host that fails over it gets the next attempt by DATA.
        mail.pipelined_content = self.chunking
            && ahead == ContentAhead::Allowed
            && job.untried
            && content::is_small(&job.message);
        let mut conversion = None;
        if self.conversation.wants_conversion(&mail) {
            match content::convert(&job.message).await {
                Ok(Ok(converted)) => {
                    mail.size = converted.size;
                    mail.conversion = Converted::Done;
                    mail.now = ring::wall_clock();
                    conversion = Some(converted.conversion);
                }
                Ok(Err(why)) => mail.conversion = Converted::Impossible(why),
                Err(error) => return Transacted::unreadable(recipients, &error),
            }
        }
        let (size, converted, now) = (mail.size, mail.conversion, mail.now);
        self.begin(mail, job);
        loop {
            let loss = match self.talk().await {
                Ok(Step::SendContent) => {
                    let sent = self.content_sender().send(&job.message, conversion.as_ref()).await;
                    match sent {
                        Ok(()) => continue,
                        Err(loss) => match self.last_words() {
                            Some(Step::Finished { outcomes, again }) => {
                                return Transacted { outcomes, again, lost: true };
                            }
                            _ => loss,
                        },
                    }
                }
                Ok(Step::Finished { outcomes, again }) => {
                    if self.conversation.retry_without_extension() && self.is_ready_again().await {
                        let mail = mail_of(job, recipients);
                        let mail = Mail { size, conversion: converted, now, ..mail };
                        self.begin(mail, job);
                        continue;
                    }
                    let lost = self.conversation.will_close();
                    return Transacted { outcomes, again, lost };
                }
                Ok(Step::Unusable(outcome)) => {
                    return Transacted::lost_with(recipients, &outcome, Scope::Transaction);
                }
                Ok(Step::Ready | Step::Close | Step::More | Step::StartTls | Step::Prove(_)) => {
                    Loss::Closed("closed by the host".into())
                }
                Err(loss) => loss,
            };
            let (outcomes, _) = self.conversation.lost(loss);
            return Transacted { outcomes, again: Vec::new(), lost: true };
        }
    }

    /// Says the envelope, and content with it where that may be.
    fn begin(&mut self, mail: Mail, job: &Job) {
        self.conversation.begin(mail, &mut self.output);
        if self.conversation.takes_content_ahead() {
            self.content_sender().put(&job.message);
        }
    }

    fn content_sender(&mut self) -> ContentSender<'_> {
        let Connection { stream, conversation, output, .. } = self;
        ContentSender { stream, conversation, output }
    }

    /// Ends a transaction that takes too long: what that means for its recipients.
    pub(super) fn give_up(&mut self) -> Transacted {
        let (outcomes, _) = self.conversation.lost(Loss::TimedOut);
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// After a transaction: whether the connection can take another one.
    pub(super) async fn is_ready_again(&mut self) -> bool {
        match self.talk().await {
            Ok(Step::Ready) => true,
            Ok(_) => {
                self.finish_output().await;
                false
            }
            Err(_) => false,
        }
    }

    /// Gives the receive buffer back while the connection is idle.
    pub(super) fn rest(&mut self) {
        self.input.release();
        self.stream.release();
        self.output = Vec::new();
    }

    /// QUIT and close. Only on a connection that is ready.
    pub(super) async fn quit(mut self) {
        self.conversation.quit(&mut self.output);
        self.finish_output().await;
        if self.stream.recv(&mut self.input, QUIT_WAIT).await.is_ok() {
            self.log_replies(self.input.filled().len());
        }
        self.stream.close().await;
    }

    async fn finish_output(&mut self) {
        self.log_commands();
        let _ = self.stream.send_all(&self.output, QUIT_WAIT).await;
        self.output.clear();
    }

    /// Until the conversation wants something of us other than to send and receive.
    async fn talk(&mut self) -> Result<Step, Loss> {
        // The limit is for a reply as a whole: a host that drips it a byte at a time would never
        // run into that of a single receive.
        let (mut awaited_since, mut replies) = (ring::now(), self.conversation.replies());
        loop {
            if !self.output.is_empty() {
                self.log_commands();
                let sent = self.stream.send_all(&self.output, self.conversation.timeout()).await;
                self.output.clear();
                if let Err(error) = sent {
                    return self.last_words().ok_or_else(|| loss_of(error));
                }
            }
            let progress = self.conversation.receive(self.input.filled(), &mut self.output);
            self.log_replies(progress.consumed);
            self.input.consume(progress.consumed);
            match progress.step {
                Step::More => {}
                step => return Ok(step),
            }
            if !self.output.is_empty() || (progress.consumed > 0 && !self.input.filled().is_empty())
            {
                continue;
            }
            if self.conversation.replies() != replies {
                (awaited_since, replies) = (ring::now(), self.conversation.replies());
            }
            let wait = self
                .conversation
                .timeout()
                .saturating_sub(ring::now().duration_since(awaited_since));
            if wait.is_zero() {
                return Err(Loss::TimedOut);
            }
            match self.stream.recv(&mut self.input, wait).await {
                Ok(0) => return Err(Loss::Closed("closed by the host".into())),
                Ok(_) => {}
                Err(error) => return Err(loss_of(error)),
            }
        }
    }

    /// Content that goes with the commands is not logged, and of AUTH only the mechanism.
    fn log_commands(&self) {
        if tracing::enabled!(target: "ringpost::smtp", tracing::Level::DEBUG) {
            let host = remote_name(&self.candidate);
            for line in commands_shown(&self.output) {
                tracing::debug!(target: "ringpost::smtp", %host, "C: {line}");
            }
        }
    }

    /// The first `length` bytes of the input are replies.
    fn log_replies(&self, length: usize) {
        if tracing::enabled!(target: "ringpost::smtp", tracing::Level::DEBUG) {
            let host = remote_name(&self.candidate);
            for line in replies_shown(self.input.filled().get(..length).unwrap_or_default()) {
                tracing::debug!(target: "ringpost::smtp", %host, "S: {line}");
            }
        }
    }

    /// Sending failed. A host that refuses content early says why before it closes: those words,
    /// when they have arrived, are the better reason.
    fn last_words(&mut self) -> Option<Step> {
        let Ok(Some(1..)) = self.stream.try_recv(&mut self.input) else { return None };
        let progress = self.conversation.receive(self.input.filled(), &mut self.output);
        self.input.consume(progress.consumed);
        self.output.clear();
        matches!(progress.step, Step::Finished { .. }).then_some(progress.step)
    }
}

/// Bytes of a nonce.
const NONCE_BYTES: usize = 18;

/// Who we are at a host that wants to know.
fn login(logins: Option<&OutboundCredentials>, place: u16) -> Option<Login> {
    let (credentials, without_tls) = logins?.get(place)?;
    let mut nonce = [0; NONCE_BYTES];
    ring::random_bytes(&mut nonce).ok()?;
    Some(Login { credentials, nonce: encode(&nonce).into(), without_tls })
}

/// `None` when `work` takes longer than `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let in_time = async { Some(work.await) };
    let too_long = async {
        ring::sleep(limit).await;
        None
    };
    futures_lite::future::or(in_time, too_long).await
}

fn mail_of(job: &Job, recipients: &[u32]) -> Mail {
    Mail::new(Arc::clone(&job.message), recipients.to_vec(), ring::wall_clock())
}

/// What a host without TLS that proves its name makes of mail that demands it (RFC 8689 4.2.1):
/// what is certain of the host is final.
fn without_tls(failure: Failure) -> HostFailure {
    let reason = match failure {
        Failure::Tls { reason, is_final: true, .. } => reason,
        Failure::Other(HostFailure { reason, .. })
            if reason.stage == Stage::Hello && reason.status == Conversation::NOT_PROTECTED =>
        {
            reason
        }
        failure => return failure.into_host_failure(),
    };
    let text = format!("the message demands REQUIRETLS: {}", reason.text);
    let reason = Reason { status: Status(5, 7, 10), text: text.into(), ..reason };
    HostFailure { reason, telling: Telling::Tls, finality: Finality::Never }
}

/// `mx1.example.net [192.0.2.1]:25`; of a host that is an address, `[192.0.2.1]:25`.
fn remote_name(candidate: &Candidate) -> Box<str> {
    let address = candidate.address;
    if candidate.host.starts_with('[') {
        return format!("{}:{}", candidate.host, address.port()).into();
    }
    format!("{} [{}]:{}", candidate.host, address.ip(), address.port()).into()
}

/// RFC 3463 3.8: X.7.5, cryptographic failure.
fn tls_failed(error: &io::Error, remote: Box<str>) -> Reason {
    let text = match error.kind() {
        io::ErrorKind::TimedOut => "the TLS handshake took too long".to_owned(),
        _ => format!("the TLS handshake failed: {error}"),
    };
    let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX);
    Reason { remote, ..Reason::ours(Stage::Tls, Status(4, 7, 5), text.as_str()) }
}

/// RFC 3463: 4.4.1 no answer from host, 4.4.0 for what the network or this machine did.
fn connect_failed(error: &io::Error, remote: Box<str>) -> HostFailure {
    let (telling, status, text) = match error.kind() {
        io::ErrorKind::TimedOut => {
            (Telling::NoAnswer, Status(4, 4, 1), "no answer to the connection".to_owned())
        }
        io::ErrorKind::ConnectionRefused => {
            (Telling::Refused, Status(4, 4, 1), "the host refused the connection".to_owned())
        }
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => {
            (Telling::Unreachable, Status(4, 4, 0), format!("cannot connect: {error}"))
        }
        _ => (Telling::Broken, Status(4, 4, 0), format!("cannot connect: {error}")),
    };
    let reason = Reason { remote, ..Reason::ours(Stage::Connect, status, text) };
    HostFailure { reason, telling, finality: Finality::Later }
}
