//! What a session asks before it says yes to MAIL and RCPT: whose mail it is, whether he may send
//! from there, and whether it is too much.

use super::Receiver;
use crate::auth::{self, Authenticator, Counted, Quotas, Unit, User};
use crate::config::Hourly;
use crate::message::Address;
use crate::session::{Claim, Gate};
use crate::smtp::Reply;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Whether the user of a connection has come in by a token, which stands in for an entry in the
/// users file.
pub(super) type ByToken = Rc<Cell<bool>>;

/// The gate for one client; `None` where everything may pass.
pub(super) fn gate(
    receiver: &Receiver,
    address: IpAddr,
    by_token: &ByToken,
) -> Option<Box<dyn Gate>> {
    let limits = &receiver.config.access.limits;
    let network = limits.iter().position(|limit| limit.network.contains(address));
    let network = network.and_then(|at| Some((at, limits.get(at)?.hourly)));
    let authenticator = receiver.auth_context.authenticator.clone();
    if authenticator.is_none() && network.is_none() {
        return None;
    }
    let quotas = Arc::clone(&receiver.auth_context.quotas);
    Some(Box::new(ClientGate {
        authenticator,
        by_token: Rc::clone(by_token),
        network,
        quotas,
        by_default: receiver.config.auth.hourly,
    }))
}

struct ClientGate {
    authenticator: Option<Arc<Authenticator>>,
    by_token: ByToken,
    /// That of the client, by its place in the configuration.
    network: Option<(usize, Hourly)>,
    quotas: Arc<Quotas>,
    by_default: Hourly,
}

impl Gate for ClientGate {
    fn pass(&self, user: Option<&str>, sender: Option<&Address>) -> Result<Box<dyn Claim>, Reply> {
        let (user, counted) = match (user, &self.authenticator) {
            (Some(name), Some(authenticator)) => {
                let user = user_of(authenticator, name, self.by_token.get())?;
                if let Some(address) = sender
                    && !user.may_send_from(address.as_str())
                {
                    return Err(Reply::SENDER_NOT_ALLOWED);
                }
                let default = self.by_default;
                let hourly = Hourly {
                    messages: user.messages_per_hour.unwrap_or(default.messages),
                    recipients: user.recipients_per_hour.unwrap_or(default.recipients),
                };
                let known = (Arc::clone(authenticator), user.name.clone(), self.by_token.get());
                (Some(known), Some((Counted::User(user.name.clone()), hourly)))
            }
            _ => (None, self.network.map(|(at, hourly)| (Counted::Network(at), hourly))),
        };
        let mut mail = Mail { user, counted: None };
        if let Some((whose, hourly)) = counted {
            let mut claim = auth::Claim::new(Arc::clone(&self.quotas), whose);
            if hourly.messages > 0 {
                let taken = claim.take(Unit::Messages, hourly.messages);
                taken.map_err(|wait| Reply::too_many_messages(hourly.messages, wait))?;
            }
            mail.counted = Some((claim, hourly.recipients));
        }
        Ok(Box::new(mail))
    }
}

/// One transaction.
struct Mail {
    /// Whose it is, if he is a user, where he is known, and whether by a token.
    user: Option<(Arc<Authenticator>, Box<str>, bool)>,
    /// What it has taken, and the recipients that there may be in an hour; 0 is all.
    counted: Option<(auth::Claim, u32)>,
}

impl Claim for Mail {
    fn one_more(&mut self) -> Result<(), Reply> {
        if let Some((authenticator, name, by_token)) = &self.user {
            user_of(authenticator, name, *by_token)?;
        }
        match &mut self.counted {
            Some((claim, limit @ 1..)) => claim
                .take(Unit::Recipients, *limit)
                .map_err(|wait| Reply::too_many_recipients(*limit, wait)),
            _ => Ok(()),
        }
    }

    fn keep(self: Box<Self>) {
        if let Some((claim, _)) = self.counted {
            claim.keep();
        }
    }
}

/// A user who has been removed since he logged in is one no more.
pub(super) fn user_of(
    authenticator: &Authenticator,
    name: &str,
    by_token: bool,
) -> Result<Arc<User>, Reply> {
    authenticator.user(name, by_token).ok_or(Reply::USER_GONE)
}
