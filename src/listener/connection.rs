//! One inbound connection, from greeting to close.

use super::access::{self, ByToken};
use super::log_throttle::Warning;
use super::{ListenerPolicy, OpenGuard, Receiver, proxy};
use crate::config::{ListenerTls, Role};
use crate::event::{Event, Kind};
use crate::message::{Message, QueueId};
use crate::ring::{RecvBuf, Stream};
use crate::sasl::{Channels, Exchange, Mechanism};
use crate::session::{Authentication, Client, HeaderWatch, Protection, Rejection};
use crate::session::{Session, Step, Transaction};
use crate::smtp::Reply;
use crate::spool::{Draft, SpoolError};
use crate::tls::MaybeTlsStream;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Content arrives in pieces of at most this size; a command line is far shorter.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Replies that wait while there is input left are sent beyond this many bytes: small commands have
/// large replies, and a client that does not read them must not fill our memory instead of its own.
const REPLIES_BYTES_MAX: usize = 16 * 1024;
/// A client that does not take our replies for this long is gone.
const SEND_WAIT: Duration = Duration::from_secs(60);

/// A message under way: between 354 or the first BDAT and the reply to its final dot or chunk.
struct Incoming {
    id: QueueId,
    prepended_headers: Vec<u8>,
    draft: Draft,
    /// On submission listeners: what is looked at and added.
    header: Option<HeaderWatch>,
}

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
                    proxy::Fault::Wrong(complaint) => complaint.tell(address),
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
    let by_token = ByToken::default();
    let client = Client {
        address,
        may_relay: access.may_relay(address.ip()),
        starttls: tls != ListenerTls::Off && receiver.auth_context.server.is_some(),
        tls_demanded: tls == ListenerTls::Require,
        scheduling: place.scheduling,
        xclient: access.may_xclient(address.ip()),
        protection,
        authentication: authentication(receiver, role),
        gate: access::gate(receiver, address.ip(), &by_token),
    };
    let session = Session::new(Rc::clone(&listener_policy.policy), client);
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
        by_token,
    };
    match connection.run().await {
        Ok(()) => {}
        Err(error) => tracing::debug!(client = %address, %error, "connection lost"),
    }
    connection.stream.close().await;
}

/// How clients may say who they are.
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

async fn keep(incoming: &mut Option<Incoming>, bytes: &[u8]) {
    let Some(Incoming { id, draft, header, .. }) = incoming else { return };
    if let Some(header) = header {
        header.see(bytes);
    }
    if let Err(error) = draft.extend(bytes).await {
        // The rest is swallowed; the refusal comes at the end of data.
        tracing::debug!(%id, %error, "content not kept");
        *incoming = None;
    }
}

pub(super) struct Connection<'a> {
    pub(super) receiver: &'a Rc<Receiver>,
    guard: &'a mut OpenGuard,
    pub(super) stream: MaybeTlsStream,
    input: RecvBuf,
    pub(super) output: Vec<u8>,
    pub(super) session: Session,
    incoming: Option<Incoming>,
    role: Role,
    /// Clients are asked for a certificate.
    asks: bool,
    /// An AUTH under way.
    pub(super) exchange: Option<Exchange>,
    /// How the user has come in, if there is one.
    pub(super) by_token: ByToken,
}

impl Connection<'_> {
    async fn run(&mut self) -> io::Result<()> {
        // A client that talks before the greeting breaks RFC 5321 3.1; what it says tells why.
        if self.stream.try_recv(&mut self.input)? == Some(0) {
            return Ok(());
        }
        if self.is_of_a_proxy() {
            return self.turn_away().await;
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
                keep(&mut self.incoming, bytes).await;
            }
            self.input.consume(progress.consumed);
            let goes_on = progress.step == Step::More;
            let needs_input = goes_on && (progress.consumed == 0 || self.input.filled().is_empty());
            let step = match progress.step {
                Step::Auth(input) => self.authenticate(input).await?,
                step => step,
            };
            if self.is_over_after(step).await? {
                return Ok(());
            }
            if needs_input {
                if !self.receive().await? {
                    return Ok(());
                }
                // The header and our greeting may have met on the way.
                if std::mem::take(&mut is_first) && self.is_of_a_proxy() {
                    return self.turn_away().await;
                }
            }
            if goes_on || self.output.len() > REPLIES_BYTES_MAX {
                self.flush().await?;
            }
        }
    }

    /// Whether the first that came is a PROXY header, which only proxies may send, and before all
    /// else.
    fn is_of_a_proxy(&self) -> bool {
        proxy::is_header(self.input.filled())
    }

    /// Without its header a proxy's clients would all be the proxy.
    async fn turn_away(&mut self) -> io::Result<()> {
        Warning::NoProxy.tell(self.session.client_address());
        Reply::PROXY_DENIED.write(&mut self.output);
        self.flush().await
    }

    /// Does what `step` asks for; true when the connection is to be closed.
    async fn is_over_after(&mut self, step: Step) -> io::Result<bool> {
        match step {
            // AUTH was answered before.
            Step::More | Step::Content(_) | Step::Auth(_) => {}
            Step::StartTls => {
                self.flush().await?;
                // Whatever came behind STARTTLS in the clear may be somebody else's
                // (CVE-2011-0411).
                self.input.consume(usize::MAX);
                let protection = shake_hands(self.receiver, &mut self.stream, self.asks).await?;
                self.session.secured(protection);
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
                let gate = access::gate(self.receiver, client.ip(), &self.by_token);
                self.exchange = None;
                self.session.override_client(client, may_relay, gate, &mut self.output);
            }
            Step::Flush { domain, with_below } => {
                let found = (self.receiver.queue.flush)(domain, with_below).await;
                self.session.hastened(found, &mut self.output);
            }
            Step::ContentWanted => {
                let replies = self.output.len();
                self.begin_content();
                // RFC 2920 3.2: the reply to DATA waits for nothing.
                if self.output.len() > replies {
                    self.flush().await?;
                }
            }
            Step::ContentLineEnd => keep(&mut self.incoming, b"\r\n").await,
            Step::ContentVoid => self.incoming = None,
            Step::Complete => self.store().await,
            Step::Rejected(rejection) => {
                if rejection.at == "xclient" {
                    Warning::NoXclient.tell(self.session.client_address());
                }
                self.tell_rejected(&rejection);
            }
            Step::Close => {
                self.flush().await?;
                return Ok(true);
            }
        }
        Ok(false)
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
        match self.stream.recv(&mut self.input, self.session.timeout()).await {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.session.timed_out(&mut self.output);
                self.flush().await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
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
        let now = self.receiver.now();
        let id = self.receiver.spool.next_id(now);
        let prepended_headers = self.session.received_field(id, now);
        let header = (self.role == Role::Submission).then(HeaderWatch::default);
        let draft = self.receiver.spool.draft();
        self.incoming = Some(Incoming { id, prepended_headers, draft, header });
        self.session.begin_content(&mut self.output);
    }

    async fn store(&mut self) {
        let transaction = self.session.take_transaction();
        let Some(incoming) = self.incoming.take() else {
            let reply = self.receiver.unready().unwrap_or(Reply::STORAGE_FULL);
            self.decline(&transaction, reply);
            return;
        };
        let received_at = self.receiver.now();
        let id = incoming.id;
        let mut prepended_headers = incoming.prepended_headers;
        if let Some(header) = &incoming.header {
            if let Err(reply) = self.check_header(header) {
                self.decline(&transaction, reply);
                return;
            }
            let host_name = &self.receiver.config.host_name;
            prepended_headers.extend_from_slice(&header.missing(id, host_name, received_at));
        }
        let message = Message {
            id,
            received_at,
            envelope: transaction.envelope,
            options: transaction.options,
            flags: transaction.flags,
            prepended_headers,
            content: incoming.draft,
        };
        // Replies to earlier commands of a pipelining client need not wait for the disk, but the
        // client waits for this one anyway: one send for all.
        match self.receiver.spool.store(message).await {
            Ok((placement, message)) => {
                self.tell_received(&message);
                (self.receiver.queue.admit)(message, placement);
                self.session.stored(id, &mut self.output);
            }
            Err(error) => {
                tracing::warn!(%id, %error, "message not stored");
                let reply = match error {
                    SpoolError::Full(_) => Reply::STORAGE_FULL,
                    SpoolError::Failed(_)
                    | SpoolError::Open { .. }
                    | SpoolError::Damaged { .. } => Reply::LOCAL_ERROR,
                };
                self.session.decline(reply, &mut self.output);
            }
        }
    }

    /// Whether the user may be who the header says.
    fn check_header(&self, header: &HeaderWatch) -> Result<(), Reply> {
        let (Some(authenticator), Some(name)) =
            (&self.receiver.auth_context.authenticator, self.session.user())
        else {
            return Err(Reply::AUTH_FIRST);
        };
        let user = access::user_of(authenticator, name, self.by_token.get())?;
        if user.senders.is_none() {
            return Ok(());
        }
        header.check(|address| user.may_send_from(address))
    }

    fn decline(&mut self, transaction: &Transaction, reply: Reply) {
        let from = transaction.envelope.reverse_path.as_ref().map(ToString::to_string);
        self.tell_rejected(&Rejection { at: "data", from, to: None, reply: reply.clone() });
        self.session.decline(reply, &mut self.output);
    }

    fn tell_received(&self, message: &Message) {
        let envelope = &message.envelope;
        let event = Event::new(Kind::Received, message.received_at)
            .of(message.id, envelope.reverse_path.as_ref())
            .to_all(&envelope.recipients);
        self.receiver.events.emit(&Event {
            tenant: &message.options.tenant,
            campaign: &message.options.campaign,
            size: Some(message.content.len()),
            client: Some(self.session.client_address()),
            helo: self.session.client_name(),
            protocol: self.session.protocol(),
            tls: self.session.protection().map_or("", |protection| protection.version),
            cipher: self.session.protection().map_or("", |protection| &protection.cipher),
            queued_ms: None,
            user: self.session.user().unwrap_or_default(),
            ..event
        });
    }

    fn tell_rejected(&self, rejection: &Rejection) {
        let Rejection { at, from, to, reply } = rejection;
        self.receiver.events.emit(&Event {
            from: from.as_deref(),
            to: to.as_deref(),
            stage: at,
            code: reply.code,
            status: reply.status,
            text: &reply.text,
            client: Some(self.session.client_address()),
            helo: self.session.client_name(),
            user: self.session.user().unwrap_or_default(),
            ..Event::new(Kind::Rejected, self.receiver.now())
        });
    }
}
