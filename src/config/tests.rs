//! The configuration as an operator meets it: what a file means, and what every mistake is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use std::path::Path;

fn machine() -> Machine {
    Machine {
        host_name: "relay.example.net".into(),
        cpus: vec![0, 1, 2, 3],
        dns_servers: vec!["192.0.2.53:53".parse().unwrap()],
    }
}

fn overrides(line: &[(&str, &str)]) -> Vec<Override> {
    line.iter()
        .map(|(key, value)| {
            let (flag, key) = match *key {
                "--listen" => (OverrideFlag::Dedicated("--listen"), "listener"),
                "--spool" => (OverrideFlag::Dedicated("--spool"), "spool.directory"),
                "--cores" => (OverrideFlag::Dedicated("--cores"), "cores"),
                "--smart-host" => (OverrideFlag::Dedicated("--smart-host"), "route.smart_host"),
                key => (OverrideFlag::Set, key),
            };
            Override { flag, key: key.into(), value: value.to_string() }
        })
        .collect()
}

fn read(text: &str, line: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read("r.toml", text, &overrides(line), &machine())
}

fn defaults() -> Config {
    read("", &[]).unwrap()
}

fn fault(text: &str, line: &[(&str, &str)]) -> String {
    match read(text, line) {
        Ok(_) => panic!("no fault found in {text:?} {line:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_empty_file_is_a_safe_relay_on_loopback() {
    let config = defaults();
    assert_eq!(&*config.host_name, "relay.example.net");
    assert_eq!(config.listeners, [Listener { address: "127.0.0.1:2525".parse().unwrap() }]);
    assert!(config.access.may_relay("127.0.0.1".parse().unwrap()));
    assert!(config.access.may_relay("::1".parse().unwrap()));
    assert!(config.access.may_relay("::ffff:127.9.9.9".parse().unwrap()));
    assert!(!config.access.may_relay("192.0.2.1".parse().unwrap()));
    assert!(!config.access.may_relay("::2".parse().unwrap()));
    assert_eq!(config.spool.directory, Path::new("ringpost-spool"));
    assert_eq!(config.control.socket, Path::new("ringpost-spool/control.sock"));
    let log = EventOutput::File("ringpost-spool/events.jsonl".into());
    assert_eq!(config.event.output, log);
    let cpus: Vec<_> = config.cores.iter().map(|core| core.cpu).collect();
    assert_eq!(cpus, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(config.cores[3].spool, Path::new("ringpost-spool/shard-3"));
    assert_eq!(config.dns.servers, ["192.0.2.53:53".parse().unwrap()]);
    assert_eq!(config.route, Route { smart_host: None, rules: vec![], port: 25 });
    assert!(config.warnings().is_empty());
}

#[test]
fn without_a_name_server_the_local_one_is_asked() {
    let machine = Machine { dns_servers: vec![], ..machine() };
    let config = Config::read("", "", &[], &machine).unwrap();
    assert_eq!(config.dns.servers, ["127.0.0.1:53".parse().unwrap()]);
}

#[test]
fn the_command_line_beats_the_file_and_set_beats_all() {
    let text = "[spool]\ndirectory = \"/file\"\n[retry]\nfirst = \"1m\"\nmax = \"2h\"\n";
    let config = read(text, &[]).unwrap();
    assert_eq!(config.spool.directory, Path::new("/file"));
    let config = read(text, &[("--spool", "/flag")]).unwrap();
    assert_eq!(config.spool.directory, Path::new("/flag"));
    assert_eq!(config.cores[0].spool, Path::new("/flag/shard-0"));
    let line = [("spool.directory", "/set"), ("--spool", "/flag"), ("retry.first", "2s")];
    let config = read(text, &line).unwrap();
    assert_eq!(config.spool.directory, Path::new("/set"), "whatever their order");
    assert_eq!(config.retry.first, Duration::from_secs(2));
    assert_eq!(config.retry.max, Duration::from_secs(7200), "the rest of the table stays");
}

#[test]
fn a_set_value_is_toml_or_text() {
    let same = [
        [("retry.first", "90s"), ("retry.first", "\"1m 30s\"")],
        [("session.recipients_max", "200"), ("session", "{ recipients_max = 200 }")],
        [("session.message_bytes_max", "1048576"), ("session.message_bytes_max", "1MiB")],
        [("retry.factor", "3"), ("retry.factor", "3.0")],
        [("spool.directory", "7"), ("spool.directory", "\"7\"")],
        [
            ("access.relay_networks", "10.0.0.0/8, ::1"),
            ("access.relay_networks", "[\"10.0.0.0/8\", \"::1/128\"]"),
        ],
        [("dns.servers", "192.0.2.1"), ("dns.servers", "[\"192.0.2.1:53\"]")],
        [("cores", "0-1,3"), ("cores", "[0, 1, 3]")],
        [("cores", "2"), ("cores", "0,1")],
        [
            ("listener", "127.0.0.1:1,[::1]:2"),
            ("listener", "[{address=\"127.0.0.1:1\"}, {address=\"[::1]:2\"}]"),
        ],
        [("route.smart_host", "mx"), ("route.rule", "[]")],
    ];
    for [one, other] in same {
        assert_eq!(read("", &[one]).unwrap(), read("", &[other]).unwrap(), "{one:?} {other:?}");
    }
    let text = "[route]\nsmart_host = \"h\"\n";
    assert_eq!(read(text, &[("route.smart_host", "mx")]).unwrap(), defaults());
}

#[test]
fn next_hops_are_names_or_addresses() {
    let text = "[route]\nport = 2526\nsmart_host = \"Relay_1.Example.com:587\"\n\
                [[route.rule]]\ndomain = \"Example.COM\"\nnext_hop = \"192.0.2.1\"\n\
                [[route.rule]]\ndomain = \".example.com\"\nnext_hop = \"[2001:db8::1]:26\"\n\
                [[route.rule]]\ndomain = \"*\"\nnext_hop = \"mx\"\n";
    let route = read(text, &[]).unwrap().route;
    let name = |name: &str, port| NextHop { host: HostName::Name(name.into()), port };
    let address =
        |text: &str, port| NextHop { host: HostName::Address(text.parse().unwrap()), port };
    assert_eq!(route.smart_host, Some(name("relay_1.example.com", 587)));
    let rules: Vec<_> =
        route.rules.into_iter().map(|rule| (rule.domain.to_string(), rule.next_hop)).collect();
    assert_eq!(
        rules,
        [
            ("example.com".to_string(), Some(address("192.0.2.1", 2526))),
            (".example.com".to_string(), Some(address("2001:db8::1", 26))),
            ("*".to_string(), None),
        ]
    );
}

#[test]
fn a_core_may_have_its_own_disk_and_limits() {
    let text = "cores = [3, 1]\n[core_default]\nconnections_max = 10\nhot_bytes_max = 0\n\
                [[core]]\ncpu = 1\nspool = \"/disk1\"\nhot_bytes_max = \"1 GiB\"\n";
    let cores = read(text, &[]).unwrap().cores;
    let core = |cpu, spool: &str, hot_bytes_max| Core {
        cpu: Some(cpu),
        spool: spool.into(),
        connections_max: 10,
        hot_bytes_max,
    };
    assert_eq!(cores, [core(3, "ringpost-spool/shard-0", 0), core(1, "/disk1", 1 << 30)]);
    let free = read("cores = 2\npin = false\n", &[]).unwrap().cores;
    assert_eq!(free.iter().map(|core| core.cpu).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn what_is_seldom_meant_is_warned_of() {
    let text = "host_name = \"relay\"\n[access]\nrelay_networks = []\n\
                [event]\noutput = \"off\"\n[retry]\nexpire = \"1s\"\n";
    assert_eq!(
        read(text, &[]).unwrap().warnings(),
        [
            "host_name is \"relay\", without a domain; many servers refuse mail from such a name",
            "event.output is \"off\": what becomes of mail is recorded nowhere",
            "access.relay_networks is empty: no client may relay",
            "retry.expire is shorter than retry.first: nothing is tried a second time",
        ]
    );
}

/// A file with one mistake, and what is said.
const FILE_FAULTS: &[(&str, &str)] = &[
    // Syntax.
    ("[retry\nfirst = 1", "r.toml:1: not valid TOML: unclosed table, expected `]`"),
    // Keys.
    ("[retry]\nfrist = \"1s\"", "r.toml:2: retry.frist: unknown key; did you mean `retry.first`?"),
];

#[test]
fn every_mistake_in_a_file_is_told_with_its_line_and_what_is_right() {
    for (text, expected) in FILE_FAULTS {
        assert_eq!(fault(text, &[]), *expected, "{text}");
    }
}
