//! One inbound connection, from greeting to close.

use super::access::{self, Grant, LimitedNetwork, Login};
use super::deadlines::Deadlines;
use super::log_throttle::{self, Warning};
use super::{ListenerPolicy, OpenGuard, Receiver, proxy};
use crate::config::{ListenerTls, Role};
use crate::event::{Event, ForwardPath, Kind, non_empty};
use crate::intake::{self, Details, HeaderCheck, Incoming, Source};
use crate::message::Message;
use crate::ring::{self, RecvBuf, Stream};
use crate::sasl::{Channels, Exchange, Mechanism};
use crate::session::{
    Authentication, Client, MailRequest, Progress, Protection, RecipientRequest, Rejection,
    Session, Stage, Step, Transaction,
};
use crate::smtp::{Reply, Verb, commands_shown, replies_shown};
use crate::spool::SpoolError;
use crate::tls::MaybeTlsStream;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Content arrives in pieces of at most this size; a command line is far shorter.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Replies that wait while there is input left are sent beyond this many bytes: small commands have
/// large replies, and a client that does not read them must not fill the relay's memory.
const REPLIES_BYTES_MAX: usize = 16 * 1024;
/// A client that does not take replies for this long is gone.
const SEND_WAIT: Duration = Duration::from_secs(60);

/// Serves one connection until it ends.
pub(super) async fn serve(
    receiver: &Rc<Receiver>,
    mut stream: Stream,
    guard: &mut OpenGuard,
    listener_policy: &ListenerPolicy,
) {
    let place = &listener_policy.listener;
    let (tls, role, asks) = (place.tls, place.role, place.client_certificates);
    let mut address = stream.peer_address();
    let access = &receiver.config.access;
    if access.is_proxy(address.ip()) {
        match proxy::receive(&mut stream).await {
            Ok(Some(client)) => {
                if let Err(reply) = guard.override_client(client.ip()) {
                    tracing::info!(%client, reply = %reply.text, "connection refused");
                    return stream.close().await;
                }
                address = client;
            }
            Ok(None) => {}
            Err(fault) => {
                match fault {
                    proxy::Fault::Wrong(warning) => warning.log(address),
                    proxy::Fault::Silent => {}
                    proxy::Fault::Lost(error) => {
                        tracing::debug!(proxy = %address, %error, "connection lost");
                    }
                }
                return stream.close().await;
            }
        }
    }
    let mut stream = MaybeTlsStream::new(stream);
    let mut protection = None;
    if tls == ListenerTls::Implicit {
        match shake_hands(receiver, &mut stream, asks).await {
            Ok(there) => protection = Some(there),
            Err(error) => {
                tracing::debug!(client = %address, %error, "no TLS");
                return stream.close().await;
            }
        }
    }
    let client = Client {
        address,
        may_relay: access.may_relay(address.ip()),
        starttls: tls != ListenerTls::Off && receiver.auth_context.server.is_some(),
        tls_demanded: tls == ListenerTls::Require,
        scheduling: place.scheduling,
        xclient: access.may_xclient(address.ip()),
        protection,
        authentication: authentication(receiver, role),
    };
    let policy = &listener_policy.policy;
    let session = Session::new(Rc::clone(policy), client);
    let mut connection = Connection {
        receiver,
        guard,
        stream,
        input: RecvBuf::with_capacity(RECEIVE_BYTES),
        output: Vec::new(),
        session,
        incoming: None,
        role,
        asks,
        exchange: None,
        login: None,
        network: access::limited_network(receiver, address.ip()),
        deadlines: Deadlines::new(&policy.limits, ring::now()),
    };
    match connection.run().await {
        Ok(()) => {}
        Err(error) => tracing::debug!(client = %address, %error, "connection lost"),
    }
    connection.stream.close().await;
}

/// How clients may authenticate.
fn authentication(receiver: &Receiver, role: Role) -> Authentication {
    let Some(authenticator) = &receiver.auth_context.authenticator else {
        return Authentication::default();
    };
    let (users, tokens) = (authenticator.has_users(), authenticator.takes_tokens());
    let scram = authenticator.users().knows_scram();
    let mechanisms = Mechanism::ALL.into_iter().filter(|one| match one {
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => scram,
        Mechanism::OAuthBearer | Mechanism::XOAuth2 => tokens,
        Mechanism::External | Mechanism::Plain | Mechanism::Login => users,
    });
    Authentication {
        mechanisms: mechanisms.collect(),
        without_tls: receiver.config.auth.without_tls,
        demanded: role == Role::Submission,
    }
}

/// Puts TLS around the stream.
async fn shake_hands(
    receiver: &Receiver,
    stream: &mut MaybeTlsStream,
    asks: bool,
) -> io::Result<Protection> {
    let none = || io::Error::new(io::ErrorKind::Unsupported, "there is no certificate");
    let server = receiver.auth_context.server.as_ref().ok_or_else(none)?;
    stream.accept(server, asks, receiver.config.session.tls_timeout).await?;
    let there = stream.security().ok_or_else(none)?;
    Ok(Protection {
        version: there.version,
        cipher: there.cipher,
        channels: Channels { exporter: there.exporter, end_point: there.end_point },
        client_fingerprint: there.client_fingerprint,
        client_names: there.client_names,
    })
}

pub(super) struct Connection<'a> {
    pub(super) receiver: &'a Rc<Receiver>,
    guard: &'a mut OpenGuard,
    pub(super) stream: MaybeTlsStream,
    input: RecvBuf,
    pub(super) output: Vec<u8>,
    pub(super) session: Session<Grant>,
    /// The message that is arriving: between 354 or the first BDAT and the reply to its end.
    incoming: Option<Incoming<Option<HeaderCheck>>>,
    role: Role,
    /// Clients are asked for a certificate.
    asks: bool,
    /// An AUTH in progress.
    pub(super) exchange: Option<Exchange>,
    /// The user, while the session has one.
    pub(super) login: Option<Login>,
    /// The limits of the client's network.
    network: Option<LimitedNetwork>,
    deadlines: Deadlines,
}

impl Connection<'_> {
    async fn run(&mut self) -> io::Result<()> {
        // A client that talks before the greeting breaks RFC 5321 3.1; the reply depends on what.
        if self.stream.try_recv(&mut self.input)? == Some(0) {
            return Ok(());
        }
        if self.has_proxy_header() {
            return self.refuse_proxy_header().await;
        }
        let step = self.session.greet(self.input.filled(), &mut self.output);
        if self.is_over_after(step).await? {
            return Ok(());
        }
        let mut is_first = true;
        loop {
            self.session.set_now(self.receiver.now());
            let progress = self.session.receive(self.input.filled(), &mut self.output);
            if let Step::Content(range) = &progress.step {
                let bytes = self.input.filled().get(range.clone()).unwrap_or_default();
                if let Some(incoming) = &mut self.incoming {
                    incoming.push(bytes).await;
                }
            }
            self.log_commands(&progress);
            self.input.consume(progress.consumed);
            let goes_on = matches!(progress.step, Step::More);
            let needs_input = goes_on && (progress.consumed == 0 || self.input.filled().is_empty());
            let step = match progress.step {
                Step::Auth(input) => self.authenticate(input).await?,
                Step::Mail(mail) => self.check_sender(mail),
                Step::Recipient(request) => self.check_recipient(request),
                step => step,
            };
            // Most steps ask for nothing more: they are spared a future of that size.
            if !is_done(&step) && self.is_over_after(step).await? {
                return Ok(());
            }
            if needs_input {
                if !self.receive().await? {
                    return Ok(());
                }
                // The header and the greeting may have met on the way.
                if std::mem::take(&mut is_first) && self.has_proxy_header() {
                    return self.refuse_proxy_header().await;
                }
            }
            if goes_on || self.output.len() > REPLIES_BYTES_MAX {
                self.flush().await?;
            }
        }
    }

    /// Whether the input begins with a PROXY header, which only proxies may send, and first of all.
    fn has_proxy_header(&self) -> bool {
        proxy::is_header(self.input.filled())
    }

    /// If the header were ignored, all clients of a proxy would have the proxy's address.
    async fn refuse_proxy_header(&mut self) -> io::Result<()> {
        Warning::NoProxy.log(self.session.client_address());
        Reply::PROXY_DENIED.write(&mut self.output);
        self.flush().await
    }

    /// Does what `step` asks for; true when the connection is to be closed.
    async fn is_over_after(&mut self, step: Step<Grant>) -> io::Result<bool> {
        match step {
            // As `is_done` says.
            Step::More | Step::Content(_) | Step::Auth(_) => {}
            Step::Mail(_) | Step::Recipient(_) => {}
            Step::StartTls => {
                self.flush().await?;
                // What came behind STARTTLS in the clear may be an attacker's (CVE-2011-0411).
                self.input.consume(usize::MAX);
                let protection = shake_hands(self.receiver, &mut self.stream, self.asks).await?;
                self.session.secured(protection);
                self.login = None;
                self.incoming = None;
            }
            Step::ClientOverride { address, port } => {
                let mut client = self.session.client_address();
                client.set_ip(address.unwrap_or(client.ip()));
                client.set_port(port.unwrap_or(client.port()));
                if let Err(reply) = self.guard.override_client(client.ip()) {
                    reply.write(&mut self.output);
                    self.flush().await?;
                    return Ok(true);
                }
                let may_relay = self.receiver.config.access.may_relay(client.ip());
                self.network = access::limited_network(self.receiver, client.ip());
                self.exchange = None;
                self.login = None;
                self.session.override_client(client, may_relay, &mut self.output);
            }
            Step::Etrn { domain, with_subdomains } => {
                let queue = Rc::clone(&self.receiver.queue);
                let found = queue.flush(domain, with_subdomains).await;
                self.session.answer_etrn(found, &mut self.output);
            }
            Step::ContentWanted => {
                let replies = self.output.len();
                self.begin_content();
                // RFC 2920 3.2: the reply to DATA waits for nothing.
                if self.output.len() > replies {
                    self.flush().await?;
                }
            }
            Step::ContentLineEnd => {
                if let Some(incoming) = &mut self.incoming {
                    incoming.push(b"\r\n").await;
                }
            }
            Step::ContentVoid => self.incoming = None,
            Step::Complete(transaction) => self.store(*transaction).await,
            Step::Rejected(rejection) => {
                if rejection.at == Stage::Command(Verb::Xclient) {
                    Warning::NoXclient.log(self.session.client_address());
                }
                self.log_rejected(&rejection);
            }
            Step::Close => {
                self.flush().await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Answers MAIL; the step that comes of it.
    fn check_sender(&mut self, mail: Box<MailRequest>) -> Step<Grant> {
        let (receiver, login) = (self.receiver, self.login.as_mut());
        let sender = mail.envelope.reverse_path.as_ref();
        match access::check_sender(receiver, login, self.network.as_ref(), sender) {
            Ok(grant) => {
                self.session.accept_mail(mail, grant, &mut self.output);
                Step::More
            }
            Err(reply) => self.session.decline_mail(&mail, reply, &mut self.output),
        }
    }

    /// Answers RCPT; the step that comes of it.
    fn check_recipient(&mut self, request: RecipientRequest) -> Step<Grant> {
        let (receiver, login) = (self.receiver, self.login.as_mut());
        match access::check_recipient(receiver, login, self.session.grant()) {
            Ok(()) => {
                self.session.accept_recipient(request, &mut self.output);
                Step::More
            }
            Err(reply) => self.session.decline_recipient(&request, reply, &mut self.output),
        }
    }

    /// Sends the replies and waits for more input; false when the connection is to be closed.
    async fn receive(&mut self) -> io::Result<bool> {
        self.flush().await?;
        if self.receiver.stopping.get() && self.session.stopping(&mut self.output) {
            self.flush().await?;
            return Ok(false);
        }
        if self.incoming.is_none() && self.input.filled().is_empty() {
            self.input.release();
            self.stream.release();
        }
        loop {
            let (phase, commands) = (self.session.phase(), self.session.commands());
            let began = ring::now();
            let wait = match self.deadlines.left(phase, commands, began) {
                Ok(wait) => wait,
                Err(reply) => {
                    self.session.timed_out(&reply, &mut self.output);
                    self.flush().await?;
                    return Ok(false);
                }
            };
            let received = self.stream.recv(&mut self.input, wait).await;
            let bytes = *received.as_ref().unwrap_or(&0);
            self.deadlines.received(bytes, ring::now().saturating_duration_since(began));
            match received {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
                // Which bound it was, `left` says.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Content is not logged, and of AUTH only the mechanism.
    fn log_commands(&self, progress: &Progress<Grant>) {
        if !tracing::enabled!(target: "ringpost::smtp", tracing::Level::DEBUG)
            || matches!(progress.step, Step::Content(_))
        {
            return;
        }
        let client = self.session.client_address();
        let bytes = self.input.filled().get(..progress.consumed).unwrap_or_default();
        for line in commands_shown(bytes) {
            tracing::debug!(target: "ringpost::smtp", %client, "C: {line}");
        }
    }

    fn log_replies(&self) {
        if tracing::enabled!(target: "ringpost::smtp", tracing::Level::DEBUG) {
            let client = self.session.client_address();
            for line in replies_shown(&self.output) {
                tracing::debug!(target: "ringpost::smtp", %client, "S: {line}");
            }
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.log_replies();
            let sent = self.stream.send_all(&self.output, SEND_WAIT).await;
            self.output.clear();
            sent?;
        }
        Ok(())
    }

    fn begin_content(&mut self) {
        if let Some(reply) = self.receiver.unready() {
            self.session.decline(reply, &mut self.output);
            return;
        }
        let header = (self.role == Role::Submission).then(HeaderCheck::default);
        self.incoming = Some(self.receiver.intake.begin(self.receiver.now(), header));
        self.session.begin_content(&mut self.output);
    }

    async fn store(&mut self, transaction: Transaction<Grant>) {
        let Some(incoming) = self.incoming.take().filter(Incoming::is_kept) else {
            let reply = self.receiver.unready().unwrap_or(Reply::STORAGE_FULL);
            self.decline(&transaction, reply);
            return;
        };
        let received_at = self.receiver.now();
        let id = incoming.id();
        if let Some(header) = incoming.observer()
            && let Err(reply) = self.check_header(header)
        {
            self.decline(&transaction, reply);
            return;
        }
        let protocol = transaction.protocol;
        let details = Details {
            envelope: transaction.envelope,
            options: transaction.options,
            flags: transaction.flags,
            received_at,
            reservation: transaction.grant.into_reservation(),
        };
        let tls = self.session.protection().map(|protection| intake::Tls {
            version: protection.version,
            cipher: &protection.cipher,
        });
        let client = intake::Client {
            hello: self.session.client_name(),
            protocol,
            address: self.session.client_address().ip(),
            tls,
        };
        // Replies to earlier commands of a pipelining client need not wait for the disk, but the
        // client waits for this one anyway: one send for all.
        match incoming.commit(Source::Client(client), details).await {
            Ok((placement, message)) => {
                self.deadlines.accepted(ring::now());
                self.log_received(&message, protocol);
                self.receiver.queue.admit(message, placement);
                self.session.stored(id, &mut self.output);
            }
            Err(error) => {
                log_throttle::not_stored(id, &error);
                let reply = match error {
                    SpoolError::Full(_) if error.is_disk_full() => Reply::STORAGE_FULL,
                    SpoolError::Full(_)
                    | SpoolError::Failed(_)
                    | SpoolError::Open { .. }
                    | SpoolError::Damaged { .. } => Reply::LOCAL_ERROR,
                };
                self.session.decline(reply, &mut self.output);
            }
        }
    }

    /// Whether the user may send from the addresses in the header.
    fn check_header(&mut self, header: &HeaderCheck) -> Result<(), Reply> {
        let authenticator = self.receiver.auth_context.authenticator.as_ref();
        let (Some(authenticator), Some(login)) = (authenticator, &mut self.login) else {
            return Err(Reply::AUTH_FIRST);
        };
        let user = login.current(authenticator)?;
        if user.senders.is_none() {
            return Ok(());
        }
        header.check(|address| user.may_send_from(address))
    }

    fn decline(&mut self, transaction: &Transaction<Grant>, reply: Reply) {
        let from = transaction.envelope.reverse_path.as_ref().map(ToString::to_string);
        let at = Stage::Command(Verb::Data);
        self.log_rejected(&Rejection { at, from, to: None, reply: reply.clone() });
        self.session.decline(reply, &mut self.output);
    }

    fn log_received(&self, message: &Message, protocol: &'static str) {
        let envelope = &message.envelope;
        let event = Event::new(Kind::Received, message.received_at)
            .of(message.id, envelope.reverse_path.as_ref())
            .to_all(&envelope.recipients)
            .with_options(&message.options);
        self.receiver.events.emit(&Event {
            size: Some(message.content.len()),
            client: Some(self.session.client_address()),
            listener: Some(self.stream.local_address()),
            helo: non_empty(self.session.client_name()),
            protocol: Some(protocol),
            tls: self.session.protection().map(|protection| protection.version),
            cipher: self.session.protection().map(|protection| &*protection.cipher),
            received: None,
            queued_ms: None,
            user: self.session.user(),
            ..event
        });
    }

    fn log_rejected(&self, rejection: &Rejection) {
        let Rejection { at, from, to, reply } = rejection;
        self.receiver.events.emit(&Event {
            from: from.as_deref(),
            to: to.as_deref().map(ForwardPath),
            stage: Some(at.name()),
            code: Some(reply.code),
            status: reply.status,
            text: Some(&reply.text),
            client: Some(self.session.client_address()),
            listener: Some(self.stream.local_address()),
            helo: non_empty(self.session.client_name()),
            user: self.session.user(),
            ..Event::new(Kind::Rejected, self.receiver.now())
        });
    }
}

/// Whether nothing is left to do after `step`: AUTH, MAIL and RCPT were answered before.
fn is_done(step: &Step<Grant>) -> bool {
    matches!(
        step,
        Step::More | Step::Content(_) | Step::Auth(_) | Step::Mail(_) | Step::Recipient(_)
    )
}
