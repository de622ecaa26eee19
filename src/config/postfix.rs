//! The keys and words that correspond to those of Postfix's `main.cf`, suggested for such a name.
//! *Pure.*

/// Parameters of Postfix, each with the key that corresponds to it.
const NAMES: [(&str, &str); 35] = [
    ("relayhost", "route.smart_host"),
    ("mynetworks", "access.relay_networks"),
    ("myhostname", "host_name"),
    ("smtp_helo_name", "host_name"),
    ("inet_interfaces", "listener.address"),
    ("smtpd_authorized_xclient_hosts", "access.xclient_networks"),
    ("queue_directory", "spool.directory"),
    ("message_size_limit", "session.message_bytes_max"),
    ("smtpd_recipient_limit", "session.recipients_max"),
    ("smtpd_client_connection_count_limit", "session.connections_per_client"),
    ("smtpd_hard_error_limit", "session.errors_max"),
    ("smtpd_junk_command_limit", "session.junk_commands_max"),
    ("smtpd_timeout", "session.command_timeout"),
    ("disable_vrfy_command", "session.vrfy"),
    ("hopcount_limit", "session.received_max"),
    ("smtpd_tls_security_level", "listener.tls"),
    ("smtpd_tls_cert_file", "tls.cert"),
    ("smtpd_tls_key_file", "tls.key"),
    ("smtp_tls_security_level", "route.tls"),
    ("smtp_tls_CAfile", "tls.roots"),
    ("smtp_tls_cert_file", "route.tls_cert"),
    ("smtp_tls_key_file", "route.tls_key"),
    ("smtp_sasl_auth_enable", "route.auth"),
    ("smtp_sasl_password_maps", "route.auth"),
    ("smtpd_sasl_auth_enable", "auth.users"),
    ("minimal_backoff_time", "retry.first"),
    ("maximal_backoff_time", "retry.max"),
    ("maximal_queue_lifetime", "retry.expire"),
    ("bounce_queue_lifetime", "retry.expire"),
    ("delay_warning_time", "retry.delay_report"),
    ("default_destination_concurrency_limit", "pool.connections_per_site"),
    ("smtp_destination_concurrency_limit", "pool.connections_per_site"),
    ("smtp_destination_recipient_limit", "delivery.recipients_max"),
    ("default_destination_recipient_limit", "delivery.recipients_max"),
    ("smtp_connect_timeout", "delivery.connect_timeout"),
];

const RELAYING: &str = "there is nothing like it: clients in access.relay_networks and users that \
                        have logged in may send to every domain, others to none";
const SOURCE: &str = "there is nothing like it: the kernel chooses the source address";
const DELAY: &str = "there is nothing like it: pool.connections_per_site limits the connections \
                     to a site";
const TRANSPORTS: &str = "write one [[route.rule]] for each line of that table, with its domain \
                          and next_hop";

/// Parameters without such a key, each with what to do.
const ADVICE: [(&str, &str); 13] = [
    ("transport_maps", TRANSPORTS),
    ("relay_domains", RELAYING),
    ("smtpd_relay_restrictions", RELAYING),
    ("smtpd_recipient_restrictions", RELAYING),
    ("smtp_bind_address", SOURCE),
    ("smtp_bind_address6", SOURCE),
    ("smtp_destination_rate_delay", DELAY),
    ("default_destination_rate_delay", DELAY),
    (
        "default_process_limit",
        "set core_default.connections_max for clients, and pool.connections_max for next hops",
    ),
    (
        "inet_protocols",
        "there is nothing like it: a listener has an IPv4 or an IPv6 address, and hosts are tried \
         at the addresses that this machine can reach",
    ),
    ("smtpd_tls_wrappermode", "write tls = \"implicit\" in its [[listener]]"),
    ("smtp_tls_wrappermode", "write smtps:// before the next hop"),
    ("smtpd_use_tls", "write tls = \"offer\" in its [[listener]], which is the default"),
];

/// TLS levels of Postfix, each with the words that correspond to it, of which a key has one.
const WORDS: [(&str, &[&str]); 5] = [
    ("none", &["off"]),
    ("may", &["offer"]),
    ("encrypt", &["must", "require"]),
    ("verify", &["must-verify"]),
    ("secure", &["must-verify"]),
];

/// What to do in place of the parameter `name`.
pub(super) fn advice(name: &str) -> Option<String> {
    let of = |table: &'static [(&str, &str)]| {
        table.iter().find(|(postfix, _)| postfix.eq_ignore_ascii_case(name)).map(|(_, text)| *text)
    };
    match (of(&NAMES), of(&ADVICE)) {
        (Some(key), _) => Some(format!("the Postfix parameter {name} is `{key}` here")),
        (None, Some(text)) => Some(format!("for the Postfix parameter {name}: {text}")),
        (None, None) => None,
    }
}

/// Which of `allowed` corresponds to the TLS level `text`.
pub(super) fn word_of(text: &str, allowed: &[&'static str]) -> Option<&'static str> {
    let (_, words) = WORDS.iter().find(|(postfix, _)| *postfix == text)?;
    allowed.iter().copied().find(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::written::declared;

    #[test]
    fn each_name_leads_to_a_key() {
        let keys: Vec<String> = declared().iter().map(|one| one.path()).collect();
        for (name, key) in NAMES {
            assert!(keys.iter().any(|known| known == key), "{name}: {key}");
        }
        let here = "the Postfix parameter RelayHost is `route.smart_host` here";
        assert_eq!(advice("RelayHost").as_deref(), Some(here));
        assert_eq!(advice("route"), None);
    }

    #[test]
    fn each_advice_names_keys_that_there_are() {
        let keys: Vec<String> = declared().iter().map(|one| one.path()).collect();
        for (name, text) in ADVICE {
            let words = text.split(|c: char| !(c.is_ascii_lowercase() || "._".contains(c)));
            for word in words.filter(|word| word.contains('.') && word.contains('_')) {
                assert!(
                    keys.iter().any(|key| key.starts_with(word) || *key == format!("core.{word}")),
                    "{name}: {word}"
                );
            }
        }
    }

    #[test]
    fn a_tls_level_leads_to_a_word_of_the_key() {
        let route = ["off", "may", "must", "must-verify"];
        let listener = ["off", "offer", "require", "implicit"];
        for (level, of_route, of_listener) in [
            ("none", Some("off"), Some("off")),
            ("may", None, Some("offer")),
            ("encrypt", Some("must"), Some("require")),
            ("secure", Some("must-verify"), None),
            ("verify", Some("must-verify"), None),
            ("yes", None, None),
        ] {
            assert_eq!(word_of(level, &route), of_route, "{level}");
            assert_eq!(word_of(level, &listener), of_listener, "{level}");
        }
    }
}
