//! What a session asks before it says yes to MAIL and RCPT: whose mail it is, whether he may send
//! from there, and whether it is too much.

use super::Intake;
use crate::account::{Counted, Desk, Quotas, Unit, User};
use crate::config::Hourly;
use crate::session::{Asked, Gate};
use crate::smtp::Reply;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Whether the user of a connection has come in by a token, which stands in for an entry in the
/// users file.
pub(super) type ByToken = Rc<Cell<bool>>;

/// The gate for one client; `None` where everything may pass.
pub(super) fn gate(intake: &Intake, address: IpAddr, by_token: &ByToken) -> Option<Gate> {
    let limits = &intake.config.access.limits;
    let network = limits.iter().position(|limit| limit.network.contains(address));
    let network = network.and_then(|at| Some((at, limits.get(at)?.hourly)));
    let desk = intake.entrance.desk.clone();
    if desk.is_none() && network.is_none() {
        return None;
    }
    let quotas = Arc::clone(&intake.entrance.quotas);
    let by_default = intake.config.auth.hourly;
    let by_token = Rc::clone(by_token);
    Some(Box::new(move |user, asked| match (user, &desk) {
        (Some(name), Some(desk)) => {
            let user = user_of(desk, name, by_token.get())?;
            if let Asked::Sender(Some(address)) = asked
                && !user.may_send_from(address.as_str())
            {
                return Err(Reply::SENDER_NOT_ALLOWED);
            }
            let hourly = Hourly {
                messages: user.messages_per_hour.unwrap_or(by_default.messages),
                recipients: user.recipients_per_hour.unwrap_or(by_default.recipients),
            };
            count(&quotas, Counted::User(user.name.clone()), hourly, &asked)
        }
        _ => match network {
            Some((at, hourly)) => count(&quotas, Counted::Network(at), hourly, &asked),
            None => Ok(()),
        },
    }))
}

/// A user who has been removed since he logged in is one no more.
pub(super) fn user_of(desk: &Desk, name: &str, by_token: bool) -> Result<Arc<User>, Reply> {
    desk.user(name, by_token).ok_or(Reply::USER_GONE)
}

fn count(quotas: &Quotas, whose: Counted, hourly: Hourly, asked: &Asked<'_>) -> Result<(), Reply> {
    let (unit, limit) = match asked {
        Asked::Sender(_) => (Unit::Messages, hourly.messages),
        Asked::Recipient => (Unit::Recipients, hourly.recipients),
    };
    if limit == 0 {
        return Ok(());
    }
    quotas.take(whose, unit, limit).map_err(|wait| match unit {
        Unit::Messages => Reply::too_many_messages(limit, wait),
        Unit::Recipients => Reply::too_many_recipients(limit, wait),
    })
}
