//! Values that are valid and would never work, or that are written as for another program: what the
//! operator is told, word for word.

use super::{fault, read};

/// A file with a mistake, and the error text.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str)] = &[
    // A next hop that is the relay itself.
    (
        "listener = [{address = \"127.0.0.1:3700\"}]\nroute.smart_host = \"127.0.0.1:3700\"",
        "r.toml:2: route.smart_host: this is the relay itself, which listens on 127.0.0.1:3700; \
         write another host",
    ),
    (
        "listener = [{address = \"0.0.0.0:3700\"}]\nroute.smart_host = \"localhost:3700\"",
        "r.toml:2: route.smart_host: this is the relay itself, which listens on 0.0.0.0:3700; \
         write another host",
    ),
    (
        "listener = [{address = \"[::]:25\"}]\nroute.smart_host = \"127.0.0.2\"",
        "r.toml:2: route.smart_host: this is the relay itself, which listens on [::]:25; write \
         another host",
    ),
    (
        "[[route.rule]]\ndomain = \"a.test\"\nnext_hop = \"mx\"\n[[route.rule]]\n\
         domain = \"b.test\"\nnext_hop = \"lmtp://localhost:2525\"",
        "r.toml:6: route.rule.next_hop: this is the relay itself, which listens on 127.0.0.1:2525; \
         write another host",
    ),
    // A password that is never sent.
    (
        "[route]\nsmart_host = \"a.test\"\ntls = \"off\"\nauth = \"f\"",
        "r.toml:4: route.auth: the password is never sent in the clear, and tls is \"off\" here, \
         so no mail would be delivered; write tls = \"must\" (or auth_without_tls = true)",
    ),
    (
        "[[route.rule]]\ndomain = \"a.test\"\nnext_hop = \"b.test\"\ntls = \"off\"\nauth = \"f\"",
        "r.toml:5: route.rule.auth: the password is never sent in the clear, and tls is \"off\" \
         here, so no mail would be delivered; write tls = \"must\" (or auth_without_tls = true)",
    ),
    (
        "[route]\ntls = \"off\"\n[[route.rule]]\ndomain = \"a.test\"\nnext_hop = \"b.test\"\n\
         auth = \"f\"",
        "r.toml:6: rule 1: auth: the password is never sent in the clear, and tls is \"off\" here, \
         so no mail would be delivered; write tls = \"must\" (or auth_without_tls = true)",
    ),
    // Next hops as in Postfix's transport_maps.
    (
        "route.smart_host = \"smtp:[10.0.0.1]:587\"",
        "r.toml:1: route.smart_host: \"smtp:[10.0.0.1]:587\" is not a next hop: it is the form of \
         Postfix's transport_maps; write \"10.0.0.1:587\"",
    ),
    (
        "route.smart_host = \"relay:[10.0.0.1]\"",
        "r.toml:1: route.smart_host: \"relay:[10.0.0.1]\" is not a next hop: it is the form of \
         Postfix's transport_maps; write \"10.0.0.1\"",
    ),
    (
        "route.smart_host = \"smtp:[2001:db8::1]:587\"",
        "r.toml:1: route.smart_host: \"smtp:[2001:db8::1]:587\" is not a next hop: it is the form \
         of Postfix's transport_maps; write \"[2001:db8::1]:587\"",
    ),
    (
        "route.smart_host = \"smtps:[a.test]\"",
        "r.toml:1: route.smart_host: \"smtps:[a.test]\" is not a next hop: it is the form of \
         Postfix's transport_maps; write \"smtps://a.test\"",
    ),
    (
        "route.smart_host = \"lmtp:unix:/run/lmtp\"",
        "r.toml:1: route.smart_host: \"lmtp:unix:/run/lmtp\" is not a next hop: it is the form of \
         Postfix's transport_maps; write \"mx\", \"HOST\" or \"HOST:PORT\"",
    ),
    (
        "route.smart_host = \"smtp:\"",
        "r.toml:1: route.smart_host: \"smtp:\" is not a next hop: it is the form of Postfix's \
         transport_maps; write \"mx\"",
    ),
    // Words without quotes.
    (
        "pin = yes",
        "r.toml:1: not valid TOML: write true or false, not yes (or text in quotes)",
    ),
    (
        "pin = False # no\nhost_name = relay",
        "r.toml:1: not valid TOML: write true or false, not False (or text in quotes)\n\
         r.toml:2: not valid TOML: text must be quoted: key = \"text\"",
    ),
    // Lists and sizes.
    (
        "access.relay_networks = \"10.0.0.0/8, 192.168.0.0/16 127.0.0.1\"",
        "r.toml:1: access.relay_networks: must be a list; write [\"10.0.0.0/8\", \
         \"192.168.0.0/16\", \"127.0.0.1\"]",
    ),
    (
        "session.message_bytes_max = \"100M\"",
        "r.toml:1: session.message_bytes_max: \"100M\" is not a size; write \"100 MiB\"",
    ),
    // Postfix's parameters and TLS levels.
    (
        "transport_maps = \"hash:/etc/postfix/transport\"",
        "r.toml:1: transport_maps: unknown key; for the Postfix parameter transport_maps: write \
         one [[route.rule]] for each line of that table, with its domain and next_hop",
    ),
    (
        "[[listener]]\nsmtpd_tls_wrappermode = true",
        "r.toml:2: listener.smtpd_tls_wrappermode: unknown key; for the Postfix parameter \
         smtpd_tls_wrappermode: write tls = \"implicit\" in its [[listener]]",
    ),
    (
        "bounce_queue_lifetime = \"5d\"",
        "r.toml:1: bounce_queue_lifetime: unknown key; the Postfix parameter \
         bounce_queue_lifetime is `retry.expire` here",
    ),
    (
        "route.tls = \"encrypt\"",
        "r.toml:1: route.tls: \"encrypt\" is not a valid value; what Postfix calls encrypt is \
         \"must\" here",
    ),
    (
        "[[listener]]\ntls = \"may\"",
        "r.toml:2: listener.tls: \"may\" is not a valid value; what Postfix calls may is \"offer\" \
         here",
    ),
];

#[test]
fn what_would_never_work_is_an_error_with_what_would() {
    let wrong: Vec<String> = MISTAKES
        .iter()
        .map(|(text, expected)| (text, expected, fault(text, &[])))
        .filter(|(_, expected, said)| said != *expected)
        .map(|(text, expected, said)| format!("{text}\n  is {said}\n not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_may_work_is_no_error() {
    for text in [
        "route.smart_host = \"127.0.0.1:2526\"",
        "route.smart_host = \"192.0.2.1:2525\"",
        "route.smart_host = \"smtp:587\"",
        "route.smart_host = \"relay\"",
        // Port 0 is another port at each start.
        "listener = [{address = \"127.0.0.1:0\"}]\nroute.smart_host = \"127.0.0.1:2525\"",
        "listener = [{address = \"0.0.0.0:25\"}]\nroute.smart_host = \"[::1]:25\"",
        "[route]\nsmart_host = \"a.test\"\ntls = \"off\"\nauth = \"f\"\nauth_without_tls = true",
        "[route]\ntls = \"off\"\n[[route.rule]]\ndomain = \"a.test\"\nnext_hop = \"b.test\"\n\
         auth = \"f\"\ntls = \"must\"",
    ] {
        assert!(read(text, &[]).is_ok(), "{text}: {}", fault(text, &[]));
    }
}

#[test]
fn a_port_of_the_other_kind_of_tls_causes_a_warning() {
    for (hop, says) in [
        ("smtp.example.com:465", Some("port 465; write \"smtps://smtp.example.com\"")),
        ("192.0.2.1:465", Some("write \"smtps://192.0.2.1\"")),
        ("[2001:db8::1]:465", Some("write \"smtps://[2001:db8::1]\"")),
        ("smtps://a.test:587", Some("write \"a.test:587\" with tls = \"must\"")),
        ("smtps://a.test", None),
        ("a.test:587", None),
        ("lmtp://a.test:465", None),
    ] {
        let warnings = read("", &[("--smart-host", hop)]).unwrap().warnings();
        match says {
            Some(says) => {
                assert!(warnings.len() == 1 && warnings[0].contains(says), "{hop}: {warnings:?}");
            }
            None => assert!(warnings.is_empty(), "{hop}: {warnings:?}"),
        }
    }
}

#[test]
fn an_unknown_key_to_be_described_leads_to_a_key_or_a_table() {
    let config = read("", &[]).unwrap();
    for (name, says) in [
        ("retri", "unknown key \"retri\"; did you mean retry"),
        ("retry.frist", "did you mean retry.first"),
        ("relayhost", "the Postfix parameter relayhost is `route.smart_host` here"),
        ("transport_maps", "write one [[route.rule]] for each line"),
        ("colour", "`ringpost config list` shows all"),
    ] {
        let said = config.explain(name).unwrap_err().to_string();
        assert!(said.contains(says), "{name}: {said}");
    }
}

#[test]
fn a_change_of_tables_is_shown_as_the_difference() {
    let one = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";
    let two = "[[listener]]\naddress = \"127.0.0.1:2526\"\ntls = \"off\"\n";
    for (before, after, expected) in [
        (
            one.to_owned(),
            format!("{one}{two}"),
            ("none", "{address = \"127.0.0.1:2526\", tls = \"off\", scheduling = false}"),
        ),
        (
            format!("{one}{two}"),
            two.to_owned(),
            ("{address = \"127.0.0.1:2525\", scheduling = false}", "none"),
        ),
        (
            format!("{one}{two}"),
            format!("{one}{}", two.replace("off", "offer")),
            (
                "{address = \"127.0.0.1:2526\", tls = \"off\"}",
                "{address = \"127.0.0.1:2526\", tls = \"offer\"}",
            ),
        ),
        (
            format!("{one}{two}"),
            format!("{two}{one}"),
            ("2 tables", "2 tables of the same values, in another order"),
        ),
    ] {
        let (before, after) = (read(&before, &[]).unwrap(), read(&after, &[]).unwrap());
        let changes = before.changes(&after);
        let [change] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(change.key, "listener");
        assert_eq!((&*change.before, &*change.after), expected);
    }
}
