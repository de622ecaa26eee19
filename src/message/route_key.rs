//! What a message asks of routing: where to, as which sender, on what conditions. *Pure.*

/// One of the relay's sending identities: the source addresses and names that mail goes out with.
/// There is one so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdentityId(pub u16);

/// Conditions that a message sets for every host that it is handed to. What it demands decides
/// which site it goes to, so that a connection never has to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demands {
    /// Verified TLS and the REQUIRETLS extension (RFC 8689 4.2.1).
    pub require_tls: bool,
}

impl Demands {
    /// The demands of a message with these options. A report demands nothing: it goes also where
    /// the message itself could not (RFC 8689 5), because a report that is lost helps none.
    pub fn new(require_tls: bool, is_report: bool) -> Demands {
        Demands { require_tls: require_tls && !is_report }
    }
}

/// What recipients must have in common to go the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Lower-case recipient domain, or an address literal in brackets; empty for the domainless
    /// postmaster (RFC 5321 4.1.1.3).
    pub domain: Box<str>,
    /// As which sender.
    pub identity: IdentityId,
    /// On what conditions.
    pub demands: Demands,
}

impl RouteKey {
    /// The key of ordinary mail for a domain.
    pub fn of_domain(domain: &str) -> RouteKey {
        RouteKey { domain: domain.into(), ..RouteKey::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_demands_nothing() {
        for (require_tls, is_report, demanded) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            assert_eq!(Demands::new(require_tls, is_report).require_tls, demanded);
        }
    }
}
