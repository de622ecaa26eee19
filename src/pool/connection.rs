//! One connection to one host: bytes between a `ring` stream and a `delivery` conversation.

use super::content;
use super::exchange::{Job, Reporter, Reports};
use crate::config::{Config, Scheme};
use crate::credentials::OutboundCredentials;
use crate::delivery::{
    Conversation, Converted, Login, Loss, Mail, Manner, Policy, Protocol, StartTls, Step,
};
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring::{self, RecvBuf, Stream};
use crate::route::{Candidate, CredentialsId, TlsPolicy, Transport};
use crate::sasl::encode;
use crate::smtp::one_line;
use crate::tls::{Client, MaybeTlsStream, Security, Trust};
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
    pub(super) transport: &'a Transport,
    /// Who we are at hosts that want to know.
    pub(super) logins: Option<&'a OutboundCredentials>,
}

/// Why there is no connection.
enum Failure {
    /// The handshake failed; whether by what the host showed or said, and not on its way.
    Tls(Reason, bool),
    /// Anything else: what it means for a recipient.
    Other(Outcome),
}

impl Failure {
    fn into_outcome(self) -> Outcome {
        match self {
            Failure::Tls(reason, _) => Outcome::Deferred(reason),
            Failure::Other(outcome) => outcome,
        }
    }
}

/// A connection that has passed greeting and EHLO.
pub(super) struct Connection {
    pub(super) stream: MaybeTlsStream,
    input: RecvBuf,
    pub(super) output: Vec<u8>,
    pub(super) conversation: Conversation,
    security: Option<Arc<Security>>,
    /// The generation of the trusted roots that its certificate was verified by, if it was.
    verified_by: Option<u64>,
    lmtp: bool,
    /// Content may go out with the envelope.
    chunking: bool,
    /// Transactions begun on it.
    pub(super) transactions: u32,
}

/// What one transaction did.
pub(super) struct Transacted {
    /// By index in the envelope.
    pub(super) outcomes: Vec<(u32, Outcome)>,
    /// To be sent again at once.
    pub(super) again: Vec<u32>,
    /// The connection is gone.
    pub(super) lost: bool,
}

impl Transacted {
    /// The same outcome for all recipients; no connection was used.
    pub(super) fn all(job: &Job, outcome: &Outcome) -> Transacted {
        let all = job.recipients.iter();
        let outcomes = all.map(|&index| (index, outcome.clone())).collect();
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// All recipients are to be sent again at once; no connection was used.
    pub(super) fn untried(job: &Job) -> Transacted {
        Transacted { outcomes: Vec::new(), again: job.recipients.clone(), lost: true }
    }

    /// The content cannot be read. Nothing was said to the host.
    fn unreadable(job: &Job, error: &io::Error) -> Transacted {
        let text = format!("the message could not be read here: {error}");
        let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX);
        let outcome = Outcome::Deferred(Reason::ours(Stage::Local, Status(4, 3, 0), text));
        let outcomes = job.recipients.iter().map(|&index| (index, outcome.clone())).collect();
        Transacted { outcomes, again: Vec::new(), lost: true }
    }

    /// The host's 421 to MAIL, if that was all: it takes no mail now, whoever it is for.
    pub(super) fn refusal_of_all(&self) -> Option<&Reason> {
        let (_, first) = self.outcomes.first()?;
        let is_refusal = |outcome: &Outcome| {
            matches!(outcome, Outcome::Deferred(reason)
                if reason.stage == Stage::Mail && reason.code == 421)
        };
        let all = self.lost && self.again.is_empty();
        (all && self.outcomes.iter().all(|(_, outcome)| is_refusal(outcome)))
            .then(|| first.reason())
    }

    /// Lost before the host said anything to this transaction but 421: on a connection that had
    /// been idle this means only that the host has closed it meanwhile.
    pub(super) fn was_closed_before(&self) -> bool {
        self.lost
            && self.again.is_empty()
            && self.outcomes.iter().all(|(_, outcome)| {
                let reason = outcome.reason();
                reason.stage == Stage::Mail && matches!(reason.code, 0 | 421)
            })
    }
}

impl Connection {
    /// Connects to one candidate and brings it to the point where mail can be sent, within `left`
    /// at the latest.
    ///
    /// # Errors
    /// The outcome that this host alone would mean for a recipient.
    pub(super) async fn open(
        candidate: &Candidate,
        way: &TlsProfile<'_>,
        left: Duration,
    ) -> Result<Connection, Outcome> {
        let began = ring::now();
        let starttls = match way.transport.tls {
            _ if way.transport.protocol == Scheme::Smtps => StartTls::Never,
            TlsPolicy::Off => StartTls::Never,
            TlsPolicy::Opportunistic => StartTls::IfOffered,
            TlsPolicy::Mandatory(_) | TlsPolicy::RequireTls => StartTls::Always,
        };
        if way.transport.tls == TlsPolicy::RequireTls {
            return Connection::open_for_require_tls(candidate, way, starttls, left).await;
        }
        match Connection::open_with(candidate, way, starttls, left).await {
            Ok(connection) => Ok(connection),
            Err(Failure::Other(outcome)) => Err(outcome),
            // What may go in the clear does so, over a new connection: this one is of no use.
            Err(Failure::Tls(reason, _)) if starttls == StartTls::IfOffered => {
                tracing::debug!(%reason, "no TLS: in the clear");
                let left = left.saturating_sub(ring::now().saturating_duration_since(began));
                let again = Connection::open_with(candidate, way, StartTls::Never, left).await;
                again.map_err(Failure::into_outcome)
            }
            Err(Failure::Tls(reason, _)) => Err(Outcome::Deferred(reason)),
        }
    }

    /// The same, to a host that proves its name under TLS and offers REQUIRETLS (RFC 8689 4.2.1).
    /// Refused is what is certain of this host: 5.7.10 without such TLS, 5.7.30 without the
    /// extension.
    async fn open_for_require_tls(
        candidate: &Candidate,
        way: &TlsProfile<'_>,
        starttls: StartTls,
        left: Duration,
    ) -> Result<Connection, Outcome> {
        let failure = match Connection::open_with(candidate, way, starttls, left).await {
            Ok(connection) if connection.conversation.meets_require_tls() => {
                return Ok(connection);
            }
            Ok(connection) => {
                let text = "the message demands REQUIRETLS, and the host does not offer it";
                let reason = Reason {
                    remote: connection.conversation.remote().into(),
                    ..Reason::ours(Stage::Tls, Status(5, 7, 30), text)
                };
                connection.quit().await;
                return Err(Outcome::Refused(reason));
            }
            Err(failure) => failure,
        };
        Err(match failure {
            Failure::Tls(reason, true) => without_tls(reason),
            Failure::Other(Outcome::Deferred(reason))
                if reason.stage == Stage::Hello && reason.status == Conversation::NOT_PROTECTED =>
            {
                without_tls(reason)
            }
            failure => failure.into_outcome(),
        })
    }

    async fn open_with(
        candidate: &Candidate,
        way: &TlsProfile<'_>,
        starttls: StartTls,
        left: Duration,
    ) -> Result<Connection, Failure> {
        let remote = remote_name(candidate);
        let limits = &way.config.delivery;
        let other = |outcome| Err(Failure::Other(outcome));
        let stream = match Stream::connect(
            candidate.address,
            None,
            limits.connect_timeout.min(left),
        )
        .await
        {
            Ok(stream) => stream,
            Err(error) => return other(Outcome::Deferred(connect_failed(&error, remote))),
        };
        let protocol = match way.transport.protocol {
            Scheme::Smtp | Scheme::Smtps => Protocol::Smtp,
            Scheme::Lmtp => Protocol::Lmtp,
        };
        let verified = way.transport.tls.is_verified();
        let eight_bit = way.transport.eight_bit;
        let manner = Manner { protocol, starttls, verified, eight_bit };
        let mut connection = Connection {
            stream: MaybeTlsStream::new(stream),
            input: RecvBuf::with_capacity(RECEIVE_BYTES),
            output: Vec::new(),
            conversation: Conversation::new(Rc::clone(way.policy), remote, manner),
            security: None,
            verified_by: None,
            lmtp: protocol == Protocol::Lmtp,
            chunking: way.transport.chunking,
            transactions: 0,
        };
        if way.transport.protocol == Scheme::Smtps {
            connection.shake_hands(candidate, way, left).await?;
            connection.conversation.secured_from_the_start();
        }
        if let Some(CredentialsId(place)) = way.transport.credentials {
            let login = login(way.logins, place).ok_or_else(|| {
                let text = "our login for this host is not there";
                Failure::Other(Outcome::Deferred(Reason::ours(Stage::Local, Status(4, 3, 5), text)))
            })?;
            connection.conversation.log_in_as(login);
        }
        // A host that drips never runs into the time-out of one receive, but into that of all its
        // replies: greeting, EHLO, HELO.
        let in_time = limits.greeting_timeout + 2 * limits.hello_timeout;
        let mut talked = within(in_time.min(left), connection.talk()).await;
        if let Some(Ok(Step::StartTls)) = talked {
            // Nothing that came before the handshake counts.
            connection.input.consume(usize::MAX);
            connection.shake_hands(candidate, way, left).await?;
            connection.conversation.secured(&mut connection.output);
            talked = within(limits.hello_timeout.min(left), connection.talk()).await;
        }
        while let Some(Ok(Step::Prove(proof))) = talked {
            let proved = match way.logins {
                Some(logins) => logins.work(move || proof.work()).await,
                None => None,
            };
            connection.conversation.proved(proved, &mut connection.output);
            talked = within(limits.hello_timeout.min(left), connection.talk()).await;
        }
        match talked.unwrap_or(Err(Loss::TimedOut)) {
            Ok(Step::Ready) => Ok(connection),
            Ok(Step::Unusable(outcome)) => {
                connection.finish_output().await;
                other(outcome)
            }
            Ok(_) => {
                let (_, reason) =
                    connection.conversation.lost(Loss::Closed("closed by the host".into()));
                other(Outcome::Deferred(reason))
            }
            Err(loss) => {
                let (_, reason) = connection.conversation.lost(loss);
                other(Outcome::Deferred(reason))
            }
        }
    }

    /// Puts TLS around the connection.
    async fn shake_hands(
        &mut self,
        candidate: &Candidate,
        way: &TlsProfile<'_>,
        left: Duration,
    ) -> Result<(), Failure> {
        let is_verified = way.transport.tls.is_verified();
        let trust = if is_verified { Trust::Verified } else { Trust::Anyone };
        let ours = way.transport.certificate;
        let wait = way.config.delivery.tls_timeout.min(left);
        self.verified_by = (trust == Trust::Verified).then(|| way.client.generation());
        let shaken = self.stream.connect(way.client, trust, ours, &candidate.host, wait).await;
        shaken.map_err(|error| {
            let is_final = error.kind() == io::ErrorKind::InvalidData;
            Failure::Tls(tls_failed(&error, remote_name(candidate)), is_final)
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

    /// Sends one message. Only on a connection that is ready.
    pub(super) async fn transact(&mut self, job: &Job) -> Transacted {
        self.transactions += 1;
        let mut mail = mail_of(job);
        // A host that fails over it gets the next attempt by DATA.
        mail.pipelined_content = self.chunking && job.untried && content::is_small(&job.message);
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
                Err(error) => return Transacted::unreadable(job, &error),
            }
        }
        let (size, converted, now) = (mail.size, mail.conversion, mail.now);
        self.begin(mail, job);
        loop {
            let loss = match self.talk().await {
                Ok(Step::SendContent) => match self.send_content(job, conversion.as_ref()).await {
                    Ok(()) => continue,
                    Err(loss) => match self.last_words() {
                        Some(Step::Finished { outcomes, again }) => {
                            return Transacted { outcomes, again, lost: true };
                        }
                        _ => loss,
                    },
                },
                Ok(Step::Finished { outcomes, again }) => {
                    if self.conversation.retry_without_extension() && self.is_ready_again().await {
                        let mail = Mail { size, conversion: converted, now, ..mail_of(job) };
                        self.begin(mail, job);
                        continue;
                    }
                    let lost = outcomes.iter().any(|(_, outcome)| outcome.reason().code == 421);
                    return Transacted { outcomes, again, lost };
                }
                Ok(Step::Unusable(outcome)) => {
                    let outcomes =
                        job.recipients.iter().map(|&index| (index, outcome.clone())).collect();
                    return Transacted { outcomes, again: Vec::new(), lost: true };
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
            self.put_content(&job.message);
        }
    }

    /// Ends a transaction that takes too long: what that means for its recipients.
    pub(super) fn give_up(&mut self) -> (Vec<(u32, Outcome)>, Reason) {
        self.conversation.lost(Loss::TimedOut)
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
        let _ = self.stream.recv(&mut self.input, QUIT_WAIT).await;
        self.stream.close().await;
    }

    async fn finish_output(&mut self) {
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
                let sent = self.stream.send_all(&self.output, self.conversation.timeout()).await;
                self.output.clear();
                if let Err(error) = sent {
                    return self.last_words().ok_or_else(|| loss_of(error));
                }
            }
            let progress = self.conversation.receive(self.input.filled(), &mut self.output);
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

fn mail_of(job: &Job) -> Mail {
    Mail::new(Arc::clone(&job.message), job.recipients.clone(), ring::wall_clock())
}

/// What a host without TLS that proves its name makes of mail that demands it (RFC 8689 4.2.1).
fn without_tls(reason: Reason) -> Outcome {
    let text = format!("the message demands REQUIRETLS: {}", reason.text);
    Outcome::Refused(Reason { status: Status(5, 7, 10), text: text.into(), ..reason })
}

/// `mx1.example.net [192.0.2.1]:25`; of a host that is an address, `[192.0.2.1]:25`.
fn remote_name(candidate: &Candidate) -> Box<str> {
    let address = candidate.address;
    if candidate.host.starts_with('[') {
        return format!("{}:{}", candidate.host, address.port()).into();
    }
    format!("{} [{}]:{}", candidate.host, address.ip(), address.port()).into()
}

pub(super) fn loss_of(error: io::Error) -> Loss {
    match error.kind() {
        io::ErrorKind::TimedOut => Loss::TimedOut,
        _ => Loss::Closed(error.to_string()),
    }
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
fn connect_failed(error: &io::Error, remote: Box<str>) -> Reason {
    let (status, text) = match error.kind() {
        io::ErrorKind::TimedOut => (Status(4, 4, 1), "no answer to the connection".to_owned()),
        io::ErrorKind::ConnectionRefused => {
            (Status(4, 4, 1), "the host refused the connection".to_owned())
        }
        _ => (Status(4, 4, 0), format!("cannot connect: {error}")),
    };
    Reason { stage: Stage::Connect, code: 0, status, text: text.into(), remote }
}
