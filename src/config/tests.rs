//! The configuration as an operator sees it: what a file means, and the errors for mistakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod hints;

use super::*;
use crate::config;
use std::path::Path;
use std::time::Duration;

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
fn scheduling_is_allowed_by_default_for_submission_only() {
    let listener = |more: &str| {
        let head = "[auth]\nusers = \"u\"\nwithout_tls = true\n[[listener]]\n";
        let text = format!("{head}address = \"127.0.0.1:1\"\n{more}");
        read(&text, &[]).unwrap().listeners.first().unwrap().scheduling
    };
    assert!(!listener(""));
    assert!(listener("scheduling = true"));
    assert!(listener("role = \"submission\""));
    assert!(!listener("role = \"submission\"\nscheduling = false"));
}

#[test]
fn an_empty_file_is_a_safe_relay_on_loopback() {
    let config = defaults();
    assert_eq!(&*config.host_name, "relay.example.net");
    assert_eq!(
        config.listeners,
        [Listener {
            address: "127.0.0.1:2525".parse().unwrap(),
            tls: ListenerTls::Offer,
            scheduling: false,
            client_certificates: false,
            role: Role::Relay,
            message_bytes_max: None,
            recipients_max: None,
        }]
    );
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
    assert_eq!(
        config.route,
        Route {
            smart_host: None,
            rules: vec![],
            port: 25,
            policy: TransportPolicy::ORDINARY,
            certificates: vec![],
            logins: vec![]
        }
    );
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
    let name = |name: &str, port| NextHop {
        host: HostName::Name(name.into()),
        port,
        scheme: Scheme::Smtp,
        login: None,
    };
    let address = |text: &str, port| NextHop {
        host: HostName::Address(text.parse().unwrap()),
        port,
        scheme: Scheme::Smtp,
        login: None,
    };
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
        content_bytes_max: 64 << 20,
        queue_recipients_max: 10_000_000,
    };
    assert_eq!(cores, [core(3, "ringpost-spool/shard-0", 0), core(1, "/disk1", 1 << 30)]);
    let free = read("cores = 2\npin = false\n", &[]).unwrap().cores;
    assert_eq!(free.iter().map(|core| core.cpu).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn shards_that_are_not_pinned_may_be_more_than_there_are_cpus() {
    let shards = |text, line: &[_]| read(text, line).unwrap().cores.len();
    assert_eq!(shards("pin = false\ncores = 7\n", &[]), 7);
    assert_eq!(shards("", &[("pin", "false"), ("--cores", "1024")]), 1024);
    assert_eq!(shards("pin = false\n", &[]), machine().cpus.len());
}

#[test]
fn a_list_of_tables_may_be_set_as_a_whole_or_emptied() {
    let text = "[[access.limit]]\nnetwork = \"192.0.2.0/24\"\n";
    let limits = |line: &[_]| {
        let limits = read(text, line).unwrap().access.limits;
        limits.iter().map(|limit| unit::show_network(&limit.network)).collect::<Vec<_>>()
    };
    assert_eq!(limits(&[]), ["192.0.2.0/24"]);
    assert_eq!(limits(&[("access.limit", "[]")]), [""; 0]);
    let two = "[{network = \"10.0.0.0/8\", messages_per_hour = 9}, {network = \"::1\"}]";
    assert_eq!(limits(&[("access.limit", two)]), ["10.0.0.0/8", "::1/128"]);
    let cores = read("", &[("core", "[{cpu = 1, spool = \"/x\"}]")]).unwrap().cores;
    assert_eq!(cores[1].spool, Path::new("/x"));
}

#[test]
fn settings_that_are_rarely_intended_cause_warnings() {
    let text = "host_name = \"relay\"\n[access]\nrelay_networks = []\n\
                [event]\noutput = \"off\"\n[retry]\nexpire = \"1s\"\n";
    assert_eq!(
        read(text, &[]).unwrap().warnings(),
        [
            "host_name is \"relay\", which has no domain, and many servers refuse mail from such a \
             name; set it to the name of this machine in the DNS: host_name = \"mail.example.com\"",
            "event.output is \"off\": no record is kept of what happens to mail",
            "access.relay_networks is empty: no client may relay",
            "retry.expire is shorter than retry.first: no message is tried a second time",
            "retry.delay_report is not shorter than retry.expire: delays are never reported; write \
             \"off\" if that is intended",
        ]
    );
}

#[test]
fn the_machines_own_name_is_checked_too() {
    let machine = Machine { host_name: "my_host".into(), ..machine() };
    let error = Config::read("", "", &[], &machine).unwrap_err();
    assert_eq!(
        error.to_string(),
        "host_name: this machine's name \"my_host\" is not a domain name: '_' is not allowed in a \
         domain name; set host_name"
    );
    assert!(Config::read("", "", &overrides(&[("host_name", "a.example")]), &machine).is_ok());
}

#[test]
fn a_missing_file_is_named_in_the_error() {
    let error = Config::load(Some(Path::new("/nowhere/r.toml")), &[]).unwrap_err();
    let expected = "/nowhere/r.toml: cannot be read: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), expected);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, b"host_name = \"\xff\"").unwrap();
    let error = Config::load(Some(file.path()), &[]).unwrap_err().to_string();
    assert!(error.ends_with(": cannot be read: it is not UTF-8 text"), "{error}");
}

#[test]
fn private_networks_of_any_size_may_relay() {
    let wide = "10.0.0.0/8,fc00::/7,fe80::/10,fd00::/8,2001::/16,192.0.2.1,::ffff:192.0.2.0/120";
    let networks = read("", &[("access.relay_networks", wide)]);
    let shown: Vec<String> =
        networks.unwrap().access.relay_networks.iter().map(unit::show_network).collect();
    assert_eq!(
        shown.join(","),
        "10.0.0.0/8,fc00::/7,fe80::/10,fd00::/8,2001::/16,192.0.2.1/32,192.0.2.0/24"
    );
}

#[test]
fn durations_and_sizes_read_back_as_they_are_shown() {
    for text in ["0s", "50ms", "1s", "5m", "1h 30m", "5d", "1d 1h 1m 1s 1ms 1us", "100us"] {
        assert_eq!(unit::show_duration(unit::read_duration(text).unwrap()), text);
    }
    for text in ["0", "1000", "1 KiB", "1025", "64 KiB", "3 GiB", "1 TiB"] {
        assert_eq!(unit::show_size(unit::read_size(text).unwrap()), text);
    }
    for (text, bytes) in
        [("25MiB", 25 << 20), ("1 kb", 1000), ("2 bytes", 2), (" 7 MB ", 7_000_000)]
    {
        assert_eq!(unit::read_size(text), Ok(bytes));
    }
    for text in ["", "MiB", "1.5 MiB", "-1", "1 XiB", "1 M"] {
        assert!(unit::read_size(text).is_err(), "{text}");
    }
}

#[test]
fn a_rendered_configuration_reads_back_as_the_same() {
    let text = "host_name = \"a.example\"\ncores = [2, 0]\n\
                [[listener]]\naddress = \"0.0.0.0:0\"\n[[listener]]\naddress = \"[::1]:25\"\n\
                [[core]]\ncpu = 2\nspool = \"/a \\\"b\\\\\"\nhot_bytes_max = 1001\n\
                [access]\nrelay_networks = []\n[retry]\nfactor = 1.5\njitter = 0\n\
                [ring]\npreempt = \"100us\"\n\
                [route]\nsmart_host = \"[2001:db8::1]:587\"\n\
                [[route.rule]]\ndomain = \"*\"\nnext_hop = \"mx\"\ntls = \"must-verify\"\n\
                [tls]\nmin_version = \"1.3\"\nroots = \"r.pem\"\ncert = \"a\"\nkey = \"b\"\n\
                [[tls.certificate]]\ncert = \"c\"\nkey = \"d\"\n";
    let free = "pin = false\ncores = 3\n[core_default]\nhot_bytes_max = 5\n";
    for text in ["", text, free, "[event]\noutput = \"stdout\"", "[event]\noutput = \"off\""] {
        let config = read(text, &[]).unwrap();
        let rendered = config.render();
        assert_eq!(read(&rendered, &[]).unwrap(), config, "{rendered}");
    }
}

/// The annotated file, which is the manual.
const MANUAL: &str = include_str!("../../tuning/ringpost.toml");

/// The file with `mark` removed from every line where a key or a table header follows it.
fn uncommented(mark: &str) -> String {
    let setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(bare) if setting(bare) => format!("{bare}\n"),
        _ => format!("{line}\n"),
    };
    MANUAL.lines().map(line).collect()
}

#[test]
fn the_shipped_file_is_the_one_that_is_generated() {
    let generated = annotated();
    if std::env::var_os("RINGPOST_UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/ringpost.toml");
        std::fs::write(path, &generated).unwrap();
        return;
    }
    if generated != MANUAL {
        let differs = generated.lines().zip(MANUAL.lines()).find(|(new, old)| new != old);
        panic!(
            "tuning/ringpost.toml differs from the declarations; first difference: {differs:?}; \
             run this test with RINGPOST_UPDATE=1"
        );
    }
}

#[test]
fn the_shipped_file_changes_only_the_spool_directory() {
    let shipped = read(MANUAL, &[]).unwrap();
    let expected = read("", &[("--spool", "/var/lib/ringpost")]).unwrap();
    assert_eq!(shipped, expected);
}

#[test]
fn an_uncommented_key_is_in_the_table_in_which_it_is_shown() {
    let mut head = String::new();
    let mut shown = Vec::new();
    for line in MANUAL.lines() {
        match line.strip_prefix('#') {
            None if line.starts_with('[') => head = line.to_owned(),
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => {
                let key = key.split(' ').next().unwrap().to_owned();
                shown.push((head.clone(), key));
            }
            _ => {}
        }
    }
    let declared: Vec<(String, String)> = written::declared()
        .into_iter()
        .filter(|one| !one.is_example && one.path() != "spool.directory")
        .map(|one| (one.head, one.key.name.to_owned()))
        .collect();
    assert_eq!(shown, declared);
}

#[test]
fn every_key_of_the_shipped_file_can_be_uncommented() {
    let file = uncommented("#");
    // Credentials are for one host.
    let config = read(&file, &[("route.smart_host", "relay.example.net")]).unwrap();
    // Keys with a fixed default are shown with it.
    let defaults = defaults();
    assert_eq!(config.session.message_bytes_max, defaults.session.message_bytes_max);
    assert_eq!(config.retry, defaults.retry);
    let per_address = config.pool.connections_per_address;
    assert_eq!(per_address, Some(defaults.pool.connections_per_site));
    let pool = config::Pool { connections_per_address: per_address, ..defaults.pool.clone() };
    assert_eq!(config.pool, pool);
    assert_eq!(config.delivery, defaults.delivery);
    assert_eq!(config.ring, defaults.ring);
}

#[test]
fn every_example_of_the_shipped_file_is_valid() {
    let lines = MANUAL.lines().filter_map(|line| line.strip_prefix("#   "));
    let examples: Vec<&str> = lines.skip_while(|line| !line.starts_with('[')).collect();
    let examples = examples.join("\n");
    let config = read(&examples, &[]).unwrap();
    assert_eq!((config.route.rules.len(), config.access.limits.len()), (1, 1));
    assert!(config.auth.tokens.is_some() && config.tls.certificates.len() == 1);
    assert_eq!(config.cores[0].spool, Path::new("/disk1/spool"));
}

#[test]
fn every_key_has_documentation_and_a_default_or_an_example() {
    for one in written::declared() {
        let (path, declare::Shape::Value(value)) = (one.path(), &one.key.shape) else { continue };
        assert!(!one.key.about.is_empty(), "{path} has no documentation");
        assert!(value.default.is_some() || value.example.is_some(), "{path} shows no value");
    }
}

#[test]
fn schemes_of_next_hops_have_ports_of_their_own() {
    for (text, scheme, port, shown) in [
        ("smtps://h.test", Scheme::Smtps, 465, "smtps://h.test:465"),
        ("lmtp://h.test", Scheme::Lmtp, 24, "lmtp://h.test:24"),
        ("lmtp://[::1]:2003", Scheme::Lmtp, 2003, "lmtp://[::1]:2003"),
        ("h.test", Scheme::Smtp, 25, "h.test:25"),
    ] {
        let config = read("", &[("route.smart_host", text)]).unwrap();
        let hop = config.route.smart_host.clone().unwrap();
        assert_eq!((hop.scheme, hop.port), (scheme, port), "{text}");
        assert!(config.render().contains(&format!("smart_host = \"{shown}\"")), "{text}");
    }
    assert!(read("", &[("route.smart_host", "lmtp://h.test:25")]).is_err(), "RFC 2033 5");
}

#[test]
fn a_submission_listener_may_have_tokens_and_no_users_file() {
    let text = "[auth.tokens]\nintrospection_endpoint = \"http://[::1]:81/a?b=c\"\n\
                client_id = \"a\"\nclient_secret_file = \"f\"\naudience = \"mail\"\n\
                [auth]\nwithout_tls = true\n[[listener]]\nrole = \"submission\"\n";
    let config = read(text, &[]).unwrap();
    let tokens = config.auth.tokens.clone().unwrap();
    assert_eq!((&*tokens.user_field, tokens.scope.as_deref()), ("username", None));
    assert_eq!(tokens.ttl_max, std::time::Duration::from_secs(60));
    assert_eq!(read(&config.render(), &[]).unwrap(), config);
    for wrong in ["https://a:b@c.test/", "https://", "ftp://a.test/", "https://a.test/#b", "/a"] {
        let endpoint = [("auth.tokens.introspection_endpoint", wrong)];
        assert!(fault(text, &endpoint).contains("write \"https://HOST/PATH\""), "{wrong}");
    }
}

#[test]
fn a_report_of_delay_has_a_time_or_is_off() {
    let of = |text| read("", &[("retry.delay_report", text)]).map(|c| c.retry.delay_report);
    assert_eq!(of("off").unwrap(), None);
    assert_eq!(of("90m").unwrap(), Some(std::time::Duration::from_secs(5400)));
    for wrong in ["0s", "never", "31d"] {
        assert!(of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_page_of_a_shard_s_key_says_where_its_default_comes_from() {
    let config = read("cores = [0]\n[[core]]\ncpu = 0\nconnections_max = 7\n", &[]).unwrap();
    let page = config.explain("core.connections_max").unwrap();
    assert!(page.contains("\n  value    7\n  default  core_default.connections_max\n"), "{page}");
    let page = config.explain("core.spool").unwrap();
    assert!(page.contains("  default  the directory shard-N in spool.directory\n"), "{page}");
    assert_eq!(config.explain("core.*").unwrap(), config.explain("core").unwrap());
    let page = config.explain("listener.tls").unwrap();
    assert!(page.contains("\n  allowed  \"off\", "), "{page}");
}

#[test]
fn a_file_that_cannot_be_used_is_a_problem_with_the_key_that_names_it() {
    let text = "[tls]\ncert = \"a.pem\"\nkey = \"a.key\"\n[[tls.certificate]]\n\
                cert = \"b.pem\"\nkey = \"b.key\"\n";
    let config = read(text, &[("auth.users", "u")]).unwrap();
    for (file, expected) in [
        (Some("a.pem"), "r.toml:2: tls.cert: x"),
        (Some("b.key"), "r.toml:6: tls.certificate.key: x"),
        (Some("u"), "--set auth.users: x"),
        (Some("elsewhere"), "x"),
        (None, "x"),
    ] {
        assert_eq!(config.problem_with(file.map(Path::new), "x".into()).to_string(), expected);
    }
    let (moved, same) = (format!("\n{text}"), config.clone());
    assert!(read(&moved, &[("auth.users", "u")]).unwrap() == same, "a line is no value");
}
