//! Mail that demands REQUIRETLS (RFC 8689 4.2.1): it goes to the first host of its site that
//! proves its name under TLS and offers the same, whatever the route says of TLS. If there is none
//! it comes back at once: 5.7.10 where no host has such TLS, 5.7.30 where none offers REQUIRETLS.
//!
//! The name must be worth proving: that of a next hop is the operator's word and a recipient's own
//! domain is the sender's, but whoever speaks for the DNS may name any MX host. Without DNSSEC and
//! MTA-STS, which would vouch for MX records, mail to such hosts comes back.

use super::connection::{Connection, Shortfall, TlsProfile, Transacted};
use super::exchange::Job;
use super::owner::{Pool, SiteOwner};
use super::worker::{OPENING_MAX, PooledConnection, transact};
use crate::config::DeliveryTls;
use crate::message::{Outcome, Reason, Stage, Status};
use crate::ring;
use crate::route::Candidate;
use std::rc::Rc;

/// Whether `job` makes such a demand. Reports go all the same (RFC 8689 5): a lost one helps
/// nobody.
pub(super) fn is_demanded(job: &Job) -> bool {
    job.message.options.require_tls && job.message.envelope.reverse_path.is_some()
}

impl Pool {
    /// Delivers one job over the standing connection, if that is good enough, or a new one, which
    /// is good enough for other mail, too.
    pub(super) async fn deliver_with_tls(
        self: &Rc<Self>,
        owner: &Rc<SiteOwner>,
        standing: &mut Option<PooledConnection>,
        job: &Job,
    ) -> Transacted {
        if let Some(live) = standing.as_mut()
            && live.connection.meets_require_tls()
            && !owner.site.is_by_mx()
        {
            let reused = live.connection.transactions > 0;
            let transacted = transact(&mut live.connection, job).await;
            if !(reused && transacted.was_closed_before()) {
                return transacted;
            }
        }
        // Never more connections than the site may have.
        if let Some(standing) = standing.take() {
            standing.connection.quit().await;
        }
        match self.unless_stopping(self.open_with_tls(owner, job)).await {
            Some(Ok(connection)) => {
                let live = standing.insert(PooledConnection::new(connection, owner));
                transact(&mut live.connection, job).await
            }
            Some(Err(outcome)) => {
                let all = job.recipients.iter();
                let outcomes = all.map(|&index| (index, outcome.clone())).collect();
                Transacted { outcomes, again: Vec::new(), lost: true }
            }
            None => Transacted::untried(job),
        }
    }

    /// A connection to the first host that is good enough.
    async fn open_with_tls(&self, owner: &SiteOwner, job: &Job) -> Result<Connection, Outcome> {
        let candidates = self.router.candidates(&owner.site).await?;
        let worth_proving = |one: &&Candidate| !owner.site.is_by_mx() || is_for(job, &one.host);
        let candidates: Vec<&Candidate> = candidates.iter().filter(worth_proving).collect();
        if candidates.is_empty() {
            let text = "the message demands REQUIRETLS, and nothing vouches for the MX records \
                        that name these hosts";
            return Err(Outcome::Refused(ours(Status(5, 7, 30), text)));
        }
        let mut transport = owner.site.transport;
        transport.policy.tls = DeliveryTls::Verify;
        let way = TlsProfile {
            config: &self.config,
            policy: &self.policy,
            client: &self.client,
            transport,
            logins: self.logins.as_deref(),
        };
        let (mut later, mut never) = (None, None);
        let began = ring::now();
        for candidate in candidates {
            let left = OPENING_MAX.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            match Connection::open_verified(candidate, &way, left).await {
                Ok(connection) if connection.meets_require_tls() => return Ok(connection),
                Ok(connection) => {
                    let text = "the message demands REQUIRETLS, and the host does not offer it";
                    let reason = ours(Status(5, 7, 30), text);
                    never = Some(Reason { remote: connection.remote().into(), ..reason });
                    connection.quit().await;
                }
                Err(Shortfall::NoTls(reason)) => {
                    // A host that had TLS and no REQUIRETLS says more.
                    never.get_or_insert(no_tls(reason));
                }
                Err(Shortfall::Other(outcome)) => later = Some(outcome),
            }
        }
        // One that could not be asked may be good enough.
        Err(match (later, never) {
            (Some(later), _) => later,
            (None, Some(reason)) => Outcome::Refused(reason),
            (None, None) => Outcome::Deferred(ours(Status(4, 4, 1), "no host could be tried")),
        })
    }
}

/// Whether `host` is the domain of all recipients itself.
fn is_for(job: &Job, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    job.recipients.iter().all(|&index| {
        let recipient = job.message.envelope.recipients.get(index as usize);
        recipient.is_some_and(|one| one.address.domain_key().eq_ignore_ascii_case(host))
    })
}

/// RFC 8689 4.2.1: 5.7.10, with what the host said or showed.
fn no_tls(reason: Reason) -> Reason {
    let text = format!("the message demands REQUIRETLS: {}", reason.text);
    Reason { status: Status(5, 7, 10), text: text.into(), ..reason }
}

fn ours(status: Status, text: &str) -> Reason {
    Reason::ours(Stage::Tls, status, text)
}
