//! Whether a client may send: the answers to a session's steps Mail and Recipient.
//!
//! A user is looked up once, at AUTH, and kept as [`Login`]; whether the users have been read again
//! since is one atomic load at each command.

use super::Receiver;
use crate::auth::{Authenticator, User};
use crate::config::Hourly;
use crate::message::Address;
use crate::quota::{Counted, Leases, Reservation, ShardQuotas, Unit};
use crate::smtp::Reply;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// An authenticated user.
pub(super) struct Login {
    pub(super) user: Arc<User>,
    /// The users that `user` was looked up in.
    generation: u64,
    /// Whether a token stands in for an entry in the users file.
    by_token: bool,
    /// The user's quota.
    leases: Rc<Leases>,
}

impl Login {
    pub(super) fn new(
        authenticator: &Authenticator,
        quotas: &ShardQuotas,
        user: Arc<User>,
        by_token: bool,
    ) -> Login {
        let leases = quotas.open(&Counted::User(user.name.clone()));
        // An older generation only costs a look-up.
        let mut login = Login { user, generation: 0, by_token, leases };
        let generation = authenticator.generation();
        if authenticator.user(&login.user.name, by_token).is_some_and(|now| now == login.user) {
            login.generation = generation;
        }
        login
    }

    /// The user as it is now.
    ///
    /// # Errors
    /// The user has been removed.
    pub(super) fn current(&mut self, authenticator: &Authenticator) -> Result<&Arc<User>, Reply> {
        let generation = authenticator.generation();
        if generation != self.generation {
            let found = authenticator.user(&self.user.name, self.by_token);
            self.user = found.ok_or(Reply::USER_GONE)?;
            self.generation = generation;
        }
        Ok(&self.user)
    }
}

/// What a transaction has been granted.
#[derive(Default)]
pub(super) struct Grant {
    /// What it has reserved, and the recipients that are allowed in an hour; 0 is no limit.
    counted: Option<(Reservation, u32)>,
}

impl Grant {
    /// What it has reserved, for the message that comes of it.
    pub(super) fn into_reservation(self) -> Option<Reservation> {
        self.counted.map(|(reservation, _)| reservation)
    }
}

/// The limits of a client's network, and its quota.
pub(super) struct LimitedNetwork {
    hourly: Hourly,
    leases: Rc<Leases>,
}

/// The first network of `access.limit` that has this address.
pub(super) fn limited_network(receiver: &Receiver, address: IpAddr) -> Option<LimitedNetwork> {
    let limits = &receiver.config.access.limits;
    let place = limits.iter().position(|limit| limit.network.contains(address))?;
    let hourly = limits.get(place)?.hourly;
    let leases = receiver.quotas.open(&Counted::Network(place));
    Some(LimitedNetwork { hourly, leases })
}

/// Whether `sender` may be the reverse-path of one more message.
///
/// # Errors
/// The refusal.
pub(super) fn check_sender(
    receiver: &Receiver,
    login: Option<&mut Login>,
    network: Option<&LimitedNetwork>,
    sender: Option<&Address>,
) -> Result<Grant, Reply> {
    let counted = match (login, &receiver.auth_context.authenticator) {
        (Some(login), Some(authenticator)) => {
            let user = Arc::clone(login.current(authenticator)?);
            if sender.is_some_and(|address| !user.may_send_from(address.as_str())) {
                return Err(Reply::SENDER_NOT_ALLOWED);
            }
            let default = receiver.config.auth.hourly;
            let hourly = Hourly {
                messages: user.messages_per_hour.unwrap_or(default.messages),
                recipients: user.recipients_per_hour.unwrap_or(default.recipients),
            };
            let is_limited = hourly.messages > 0 || hourly.recipients > 0;
            is_limited.then(|| (Rc::clone(&login.leases), hourly))
        }
        _ => network.map(|network| (Rc::clone(&network.leases), network.hourly)),
    };
    let Some((leases, hourly)) = counted else { return Ok(Grant::default()) };
    let mut reservation = Reservation::new(leases);
    if hourly.messages > 0 {
        let taken = reservation.take(Unit::Messages, hourly.messages);
        taken.map_err(|wait| Reply::too_many_messages(hourly.messages, wait))?;
    }
    Ok(Grant { counted: Some((reservation, hourly.recipients)) })
}

/// Whether the transaction may have one more recipient.
///
/// # Errors
/// The refusal.
pub(super) fn check_recipient(
    receiver: &Receiver,
    login: Option<&mut Login>,
    grant: Option<&mut Grant>,
) -> Result<(), Reply> {
    if let (Some(login), Some(authenticator)) = (login, &receiver.auth_context.authenticator) {
        login.current(authenticator)?;
    }
    match grant {
        Some(Grant { counted: Some((reservation, limit @ 1..)) }) => reservation
            .take(Unit::Recipients, *limit)
            .map_err(|wait| Reply::too_many_recipients(*limit, wait)),
        _ => Ok(()),
    }
}
