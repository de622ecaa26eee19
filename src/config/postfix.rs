//! The keys that correspond to parameters of Postfix's `main.cf`, suggested for such a name.
//! *Pure.*

/// Parameters of Postfix, each with the key that corresponds to it.
const NAMES: [(&str, &str); 33] = [
    ("relayhost", "route.smart_host"),
    ("transport_maps", "route.rule.domain"),
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
    ("smtp_sasl_password_maps", "route.auth"),
    ("minimal_backoff_time", "retry.first"),
    ("maximal_backoff_time", "retry.max"),
    ("maximal_queue_lifetime", "retry.expire"),
    ("delay_warning_time", "retry.delay_report"),
    ("default_destination_concurrency_limit", "pool.connections_per_site"),
    ("smtp_destination_concurrency_limit", "pool.connections_per_site"),
    ("smtp_destination_recipient_limit", "delivery.recipients_max"),
    ("default_destination_recipient_limit", "delivery.recipients_max"),
    ("smtp_connect_timeout", "delivery.connect_timeout"),
];

/// The key for the parameter `name`.
pub(super) fn key_of(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(postfix, _)| postfix.eq_ignore_ascii_case(name)).map(|(_, key)| *key)
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
        assert_eq!(key_of("RelayHost"), Some("route.smart_host"));
        assert_eq!(key_of("route"), None);
    }
}
