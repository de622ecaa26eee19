//! AUTH: the messages of a client, checked by the authenticator.

use super::access::{Grant, Login};
use super::connection::Connection;
use crate::auth::{Attempt, Authenticator, LoginResult, NotNow, TokenRejection, User};
use crate::event::{Event, Kind, non_empty};
use crate::ring;
use crate::sasl::{self, Exchange, Fault, Secret, TokenFault, Turn};
use crate::session::{AuthInput, Step};
use crate::smtp::Reply;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a nonce.
const NONCE_BYTES: usize = 18;
/// How an exchange ends.
enum End {
    /// The credentials of this user are valid.
    Right(Arc<User>),
    /// This user's token is.
    RightByToken(Arc<User>),
    /// Refused; the user name, if one was given.
    Refused(Option<String>, Reply),
}

impl Connection<'_> {
    /// Answers a step of AUTH; the session's next step.
    pub(super) async fn authenticate(&mut self, input: AuthInput) -> io::Result<Step<Grant>> {
        let (user, by_token) = match self.answer(input).await {
            Ok(challenge) => {
                self.session.challenge(&challenge, &mut self.output);
                return Ok(Step::More);
            }
            Err(End::Right(user)) => (user, false),
            Err(End::RightByToken(user)) => (user, true),
            Err(End::Refused(user, reply)) => {
                self.exchange = None;
                let user = self.loggable(user);
                self.log_refused(&user, &reply);
                // Replies to earlier commands do not wait with this one.
                self.flush().await?;
                ring::sleep(self.receiver.config.auth.failure_delay).await;
                return Ok(self.session.not_authenticated(reply, &mut self.output));
            }
        };
        self.exchange = None;
        if let Some(authenticator) = &self.receiver.auth_context.authenticator {
            authenticator.succeeded(self.session.client_address().ip(), &user.name);
            let quotas = &self.receiver.quotas;
            self.login = Some(Login::new(authenticator, quotas, Arc::clone(&user), by_token));
        }
        self.session.authenticated(&user.name, &mut self.output);
        Ok(Step::More)
    }

    /// The next challenge, or the end.
    async fn answer(&mut self, input: AuthInput) -> Result<Vec<u8>, End> {
        let address = self.session.client_address().ip();
        let Some(authenticator) = self.receiver.auth_context.authenticator.clone() else {
            return Err(End::Refused(None, Reply::NOT_IMPLEMENTED));
        };
        let user = |exchange: &Option<Exchange>| exchange.as_ref()?.user().map(str::to_owned);
        let said = user(&self.exchange);
        let turn = match input {
            AuthInput::Begin(mechanism, initial) => {
                if let Some(wait) = authenticator.wait(address, None) {
                    return Err(End::Refused(None, Reply::auth_too_often(wait)));
                }
                let there = self.session.protection();
                let channels = there.map(|there| there.channels.clone()).unwrap_or_default();
                let exchange = self.exchange.insert(Exchange::new(mechanism, channels));
                exchange.begin(initial.as_deref())
            }
            AuthInput::Answer(message) => self.take_answer(&authenticator, &message).await?,
        };
        let said = user(&self.exchange).or(said);
        match turn {
            Ok(Turn::Challenge(message)) => Ok(message),
            Ok(Turn::Keys { user }) => self.give_keys(&authenticator, user),
            Ok(Turn::Check { user, password }) => {
                let attempt = attempt(&authenticator, address, Some(&user)).await?;
                let login_result = authenticator.check(&user, password).await;
                if login_result != LoginResult::Wrong {
                    attempt.not_wrong();
                }
                Err(match login_result {
                    LoginResult::Right(found) => End::Right(found),
                    LoginResult::Wrong => End::Refused(Some(user), Reply::AUTH_INVALID),
                    LoginResult::Busy => End::Refused(Some(user), Reply::AUTH_TEMPORARY_FAILURE),
                })
            }
            Ok(Turn::Token { user, token }) => self.check_token(&authenticator, user, token).await,
            Ok(Turn::Certificate { user }) => {
                Err(self.check_certificate(&authenticator, user).await)
            }
            Ok(Turn::Proven { user }) => Err(match authenticator.users().find(&user) {
                Some(found) => End::Right(Arc::clone(found)),
                None => {
                    authenticator.failed(address, Some(&user));
                    End::Refused(Some(user), Reply::AUTH_INVALID)
                }
            }),
            Err(fault) => Err(End::Refused(said, self.refusal(fault))),
        }
    }

    /// The challenge of SCRAM.
    fn give_keys(&mut self, authenticator: &Authenticator, user: String) -> Result<Vec<u8>, End> {
        let address = self.session.client_address().ip();
        if let Some(wait) = authenticator.wait(address, Some(&user)) {
            return Err(End::Refused(Some(user), Reply::auth_too_often(wait)));
        }
        let Some(keys) = authenticator.keys_of(&user) else {
            authenticator.failed(address, None);
            return Err(End::Refused(Some(user), Reply::AUTH_INVALID));
        };
        match (self.exchange.as_mut(), nonce()) {
            (Some(exchange), Some(nonce)) => match exchange.keys(keys, &nonce) {
                Ok(Turn::Challenge(message)) => Ok(message),
                Ok(_) => Err(End::Refused(Some(user), Reply::AUTH_MALFORMED)),
                Err(fault) => Err(End::Refused(Some(user), self.refusal(fault))),
            },
            _ => Err(End::Refused(Some(user), Reply::AUTH_TEMPORARY_FAILURE)),
        }
    }

    /// Checks a token: a client with a rejected one gets a challenge that says why before the
    /// refusal.
    async fn check_token(
        &mut self,
        authenticator: &Authenticator,
        user: Option<String>,
        token: Option<Secret>,
    ) -> Result<Vec<u8>, End> {
        let address = self.session.client_address().ip();
        let fault = match token {
            Some(token) => {
                let attempt = attempt(authenticator, address, user.as_deref()).await?;
                let found = authenticator.check_token(user.as_deref(), token).await;
                if !matches!(found, Err(TokenRejection::Fault(_))) {
                    attempt.not_wrong();
                }
                match found {
                    Ok(found) => return Err(End::RightByToken(found)),
                    Err(TokenRejection::NotNow) => {
                        return Err(End::Refused(user, Reply::AUTH_TEMPORARY_FAILURE));
                    }
                    Err(TokenRejection::Fault(fault)) => fault,
                }
            }
            None => TokenFault::None,
        };
        let answer =
            self.exchange.as_mut().map(|one| one.refuse_token(fault, authenticator.hints()));
        match answer {
            Some(Ok(Turn::Challenge(message))) => Ok(message),
            _ => Err(End::Refused(user, self.refusal(Fault::Token(fault)))),
        }
    }

    /// Finds the user of the client's certificate.
    async fn check_certificate(&self, authenticator: &Authenticator, user: Option<String>) -> End {
        let attempt =
            match attempt(authenticator, self.session.client_address().ip(), user.as_deref()).await
            {
                Ok(attempt) => attempt,
                Err(end) => return end,
            };
        let users = authenticator.users();
        let found = self.session.protection().map(|there| {
            users.find_by_certificate(there.client_fingerprint.as_ref(), &there.client_names)
        });
        let found = found.unwrap_or_default();
        let named = user.as_deref().and_then(|user| users.find(user));
        let right = match (found.as_slice(), &user) {
            ([], _) => return End::Refused(user, Reply::AUTH_INVALID),
            ([only], None) => only,
            (_, None) => return End::Refused(None, Reply::AUTH_IDENTITY_NEEDED),
            (some, Some(_)) => match named.filter(|named| some.contains(named)) {
                Some(named) => named,
                None => return End::Refused(user, Reply::AUTH_IDENTITY_DENIED),
            },
        };
        attempt.not_wrong();
        End::Right(Arc::clone(right))
    }

    /// The reply to a fault.
    fn refusal(&self, fault: Fault) -> Reply {
        match fault {
            Fault::Proof => Reply::AUTH_INVALID,
            Fault::Malformed => Reply::AUTH_MALFORMED,
            Fault::OtherIdentity => Reply::AUTH_IDENTITY_DENIED,
            Fault::ChannelBinding => {
                let there = self.exchange.as_ref().map(|exchange| exchange.channels().names());
                Reply::auth_binding(&there.unwrap_or_default())
            }
            Fault::Token(why) => Reply::auth_token(&why.to_string()),
        }
    }

    /// Gives the exchange the client's answer. A proof is checked at once, and its challenge may be
    /// old: so whether it may be checked is asked once more.
    async fn take_answer(
        &mut self,
        authenticator: &Authenticator,
        message: &[u8],
    ) -> Result<Result<Turn, Fault>, End> {
        let address = self.session.client_address().ip();
        let Some(exchange) = &mut self.exchange else { return Ok(Err(Fault::Malformed)) };
        let Some(user) = exchange.prover().map(str::to_owned) else {
            return Ok(exchange.receive(message));
        };
        let attempt = attempt(authenticator, address, Some(&user)).await?;
        let turn = exchange.receive(message);
        if let Err(fault @ (Fault::Proof | Fault::ChannelBinding)) = turn {
            return Err(End::Refused(Some(user), self.refusal(fault)));
        }
        attempt.not_wrong();
        Ok(turn)
    }

    /// A user name as the event log may have it. A name that no user has may be a password that was
    /// typed in the wrong place, so only a short keyed hash of it is logged, which is the same for
    /// the same name until the relay is restarted.
    fn loggable(&self, name: Option<String>) -> String {
        match (name, &self.receiver.auth_context.authenticator) {
            (Some(name), Some(authenticator)) => authenticator.loggable_name(&name),
            _ => String::new(),
        }
    }

    fn log_refused(&self, user: &str, reply: &Reply) {
        self.receiver.events.emit(&Event {
            stage: Some("auth"),
            code: Some(reply.code),
            status: reply.status,
            text: Some(&reply.text),
            client: Some(self.session.client_address()),
            listener: Some(self.stream.local_address()),
            helo: non_empty(self.session.client_name()),
            user: non_empty(user),
            ..Event::new(Kind::Rejected, self.receiver.now())
        });
    }
}

/// The right to have a password, a proof or a token checked; it may have to wait until other checks
/// end.
async fn attempt<'a>(
    authenticator: &'a Authenticator,
    address: IpAddr,
    user: Option<&str>,
) -> Result<Attempt<'a>, End> {
    authenticator.attempt_soon(address, user).await.map_err(|not_now| {
        let reply = match not_now {
            NotNow::For(wait) => Reply::auth_too_often(wait),
            NotNow::Crowded => Reply::AUTH_TEMPORARY_FAILURE,
        };
        End::Refused(user.map(str::to_owned), reply)
    })
}

/// Random printable characters without a comma; `None` without randomness.
fn nonce() -> Option<String> {
    let mut bytes = [0; NONCE_BYTES];
    ring::random_bytes(&mut bytes).ok()?;
    Some(sasl::encode(&bytes))
}
