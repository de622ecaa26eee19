//! CNAME chains inside one answer (RFC 1034 3.6.2). *Pure.*

use super::record::{sound_ttl, text_of};
use crate::limits;
use hickory_proto::rr::{DNSClass, RData, Record};
use std::rc::Rc;

/// The result of following a chain.
pub(super) struct Chain {
    /// The last name; `None` when an alias leads to a name that cannot be looked up.
    pub(super) end: Option<Rc<str>>,
    /// Number of aliases.
    pub(super) links: usize,
    /// Their smallest TTL, in seconds.
    pub(super) ttl: u32,
}

/// Follows the aliases of `name` within `answers`, in any order of the records. Stops one link
/// beyond the limit, so that the caller can see that there are too many.
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
