//! CNAME chains inside one answer (RFC 1034 3.6.2). *Pure.*

use super::wire::{sound_ttl, text_of};
use crate::limits;
use hickory_proto::rr::{DNSClass, RData, Record};
use std::rc::Rc;

/// Where a chain leads.
pub(super) struct Chain {
    /// The last name; `None` when an alias leads to a name that cannot be asked for.
    pub(super) end: Option<Rc<str>>,
    /// Aliases on the way.
    pub(super) links: usize,
    /// The least TTL of them, in seconds.
    pub(super) ttl: u32,
}

/// Follows the aliases of `name` as far as `answers` has them, in whatever order they stand there.
/// Stops one link beyond the limit, so that the caller sees that there were too many.
pub(super) fn follow(answers: &[Record], name: &Rc<str>) -> Chain {
    let mut chain = Chain { end: Some(Rc::clone(name)), links: 0, ttl: i32::MAX as u32 };
    while chain.links <= limits::DNS_ALIASES_MAX {
        let Some(here) = chain.end.clone() else { break };
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target)
                if record.dns_class == DNSClass::IN
                    && text_of(&record.name).as_deref() == Some(&*here) =>
            {
                Some((text_of(&target.0).filter(|text| !text.is_empty()), record.ttl))
            }
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        chain.end = target.map(Rc::from);
        chain.links += 1;
        chain.ttl = chain.ttl.min(sound_ttl(ttl));
    }
    chain
}
