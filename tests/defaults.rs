//! What a relay does of itself, without a word of configuration: at least what the RFCs demand of
//! every implementation, so that who departs from it has said so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::config::{Config, Machine};
use std::time::Duration;

fn defaults() -> Config {
    let machine = Machine {
        host_name: "relay.example.net".into(),
        cpus: vec![0],
        dns_servers: vec!["192.0.2.53:53".parse().unwrap()],
    };
    Config::read("r.toml", "", &[], &machine).unwrap()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

#[test]
fn rfc5321_4_5_3_1_sizes_are_at_least_those_demanded() {
    let session = defaults().session;
    assert!(session.message_bytes_max >= 64 * 1024, "4.5.3.1.7");
    assert!(session.recipients_max >= 100, "4.5.3.1.8");
    assert!(session.text_line_max >= 1000, "4.5.3.1.6");
    assert!(session.received_max >= 100, "6.3");
    // 4.5.3.1.4, and by how much each extension lengthens the line.
    let mail = 512
        + 26 // SIZE (RFC 1870 3)
        + 16 // BODY (RFC 6152 2, RFC 3030 3)
        + 9 + 107 // RET and ENVID (RFC 3461 4.3, 4.4)
        + 500 // AUTH (RFC 4954 3)
        + 34 // HOLDFOR, HOLDUNTIL (RFC 4865 4)
        + 10 // SMTPUTF8 (RFC 6531 3.1)
        + 15 // MT-PRIORITY (RFC 6710 3)
        + 11; // REQUIRETLS (RFC 8689 2)
    let rcpt = 512 + 30 + 507; // NOTIFY and ORCPT (RFC 3461 4.1, 4.2)
    assert!(session.command_line_max >= mail.max(rcpt), "{} of {mail}", session.command_line_max);
}

#[test]
fn rfc5321_4_5_3_2_time_outs_are_at_least_those_demanded() {
    let Config { session, delivery, .. } = defaults();
    assert!(delivery.greeting_timeout >= minutes(5), "4.5.3.2.1");
    assert!(delivery.mail_timeout >= minutes(5), "4.5.3.2.2");
    assert!(delivery.recipient_timeout >= minutes(5), "4.5.3.2.3");
    assert!(delivery.data_timeout >= minutes(2), "4.5.3.2.4");
    assert!(delivery.content_timeout >= minutes(3), "4.5.3.2.5");
    assert!(delivery.end_of_data_timeout >= minutes(10), "4.5.3.2.6");
    assert!(session.command_timeout >= minutes(5), "4.5.3.2.7");
    assert!(session.data_timeout >= minutes(5), "4.5.3.2.7");
}

#[test]
fn rfc5321_4_5_4_1_mail_is_tried_for_days() {
    let retry = defaults().retry;
    assert!(retry.expire >= minutes(4 * 24 * 60), "four to five days");
    assert!(retry.first >= minutes(1) && retry.max >= retry.first && retry.factor >= 1.0);
}

#[test]
fn rfc4954_4_passwords_need_tls_unless_told_otherwise() {
    assert!(!defaults().auth.without_tls);
}

#[test]
fn rfc3461_5_2_5_delay_is_reported_to_who_asks() {
    assert!(defaults().retry.delay_report.is_some());
}

#[test]
fn rfc6531_3_7_1_our_own_name_is_ascii() {
    let machine = Machine {
        host_name: "relay.b\u{fc}cher.example".into(),
        cpus: vec![0],
        dns_servers: vec!["192.0.2.53:53".parse().unwrap()],
    };
    let error = Config::read("r.toml", "", &[], &machine).unwrap_err().to_string();
    assert!(error.contains("is not a domain name"), "{error}");
}
