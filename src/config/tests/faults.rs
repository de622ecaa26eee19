//! Every error text for a mistake in the configuration, word for word.

use super::{fault, read};

/// A file with a mistake, and the error text.
#[rustfmt::skip]
const IN_THE_FILE: &[(&str, &str)] = &[
    // Syntax.
    (
        "[retry\nfirst = 1",
        "r.toml:1: not valid TOML: unclosed table, expected `]`",
    ),
    (
        "host_name = relay\n[retry]\nmax = 5 m\n",
        "r.toml:1: not valid TOML: text must be quoted: key = \"text\"\nr.toml:3: \
         not valid TOML: text must be quoted: key = \"text\"",
    ),
    (
        "relayhost = \"a.test\"\nmynetworks = [\"127.0.0.0/8\"]\n",
        "r.toml:1: relayhost: unknown key; the Postfix parameter relayhost is `route.smart_host` \
         here\nr.toml:2: mynetworks: unknown key; the Postfix parameter mynetworks is \
         `access.relay_networks` here",
    ),
    (
        "[retry]\nfirst = \"1s\"\nfirst = \"2s\"\n",
        "r.toml:3: not valid TOML: duplicate key first",
    ),
    (
        "[retry]\nfirst = \"1s\"\n[retry]\nmax = \"2s\"\n",
        "r.toml:3: not valid TOML: duplicate key retry",
    ),
    (
        "[dns]\nx = {a = 1, a = 2}\n",
        "r.toml:2: not valid TOML: duplicate key a",
    ),
    (
        "pool.\"a b\" = 1\npool.\"a b\" = 2\n",
        "r.toml:2: not valid TOML: duplicate key \"a b\"",
    ),
    // TLS.
    (
        "[tls]\ncert = \"a\"",
        "r.toml:2: tls.cert: without a key; a certificate (cert, --tls-cert) and its key (key, \
         --tls-key) go together",
    ),
    (
        "[[tls.certificate]]\nkey = \"a\"",
        "r.toml:1: tls.certificate.cert: missing; write cert = \
         \"/etc/ringpost/smtp.example.org.pem\"",
    ),
    (
        "[tls]\nmin_version = \"1.1\"",
        "r.toml:2: tls.min_version: \"1.1\" is not a valid value; write \"1.2\" or \"1.3\"",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:465\"\ntls = \"implicit\"",
        "r.toml:3: the listener on 127.0.0.1:465 needs a certificate, but there is none; set \
         tls.cert and tls.key (or --tls-cert and --tls-key), or its tls = \"offer\"",
    ),
    (
        "[route]\ntls = \"yes\"",
        "r.toml:2: route.tls: \"yes\" is not a valid value; write \"off\", \"may\", \"must\" or \
         \"must-verify\"",
    ),
    (
        "[route]\ntls = \"off\"\nsmart_host = \"smtps://a.test\"",
        "r.toml:3: route.smart_host: smtps:// is TLS from the first byte, and tls is \"off\" here; \
         write tls = \"must\" or \"must-verify\", or leave smtps:// out",
    ),
    // Users.
    (
        "[auth]\nwithout_tls = true\n[[listener]]\nrole = \"submission\"",
        "r.toml:4: the submission listener on 127.0.0.1:2525 needs users, but there are none; set \
         auth.users (or --users), or [auth.tokens]",
    ),
    (
        "[auth]\nusers = \"u\"\n[[listener]]\nrole = \"submission\"",
        "r.toml:4: no client could log in at the submission listener on 127.0.0.1:2525: it has \
         no TLS; set tls.cert and tls.key, and its tls = \"require\" or \"implicit\" (or \
         auth.without_tls = true)",
    ),
    (
        "[auth.tokens]\ntimeout = \"2s\"",
        "r.toml:1: auth.tokens.introspection_endpoint: missing; write introspection_endpoint = \
         \"https://login.example.com/oauth2/introspect\"\nr.toml:1: auth.tokens.client_id: \
         missing; write client_id = \"ringpost\"\nr.toml:1: auth.tokens.client_secret_file: \
         missing; write client_secret_file = \"/etc/ringpost/introspection.secret\"\nr.toml:1: \
         auth.tokens.scope: without scope and audience any token of that server would be \
         accepted, even one for another service; write scope = \"...\" or audience = \"...\"",
    ),
    (
        "[auth.tokens]\nintrospection_endpoint = \"http://a.test/x\"\nclient_id = \"a\"\n\
         client_secret_file = \"f\"\nscope = \"mail\"",
        "r.toml:2: auth.tokens.introspection_endpoint: \"http://a.test/x\" would send tokens in \
         the clear; http is only for 127.0.0.1 and [::1]; write \"https://HOST/PATH\"",
    ),
    (
        "[auth.tokens]\nintrospection_endpoint = \"a.test\"\nclient_id = \"\"\n\
         client_secret_file = \"f\"\nscope = \"mail\"",
        "r.toml:2: auth.tokens.introspection_endpoint: \"a.test\" must begin with https://; write \
         \"https://HOST/PATH\"\nr.toml:3: auth.tokens.client_id: \"\" is not usable text; write \
         printable characters",
    ),
    (
        "[[listener]]\nrole = \"msa\"",
        "r.toml:2: listener.role: \"msa\" is not a valid value; write \"relay\" or \"submission\"",
    ),
    (
        "[[listener]]\nrecipients_max = 2000",
        "r.toml:2: listener.recipients_max must not be more than session.recipients_max",
    ),
    (
        "[[access.limit]]\nmessages_per_hour = 1",
        "r.toml:1: access.limit.network: missing; write network = \"192.0.2.0/24\"",
    ),
    (
        "[[access.limit]]\nnetwork = \"0.0.0.0/0\"\n[[access.limit]]\nnetwork = \"10.0.0.0/8\"",
        "r.toml:4: access.limit.network: never reached: the limit of 0.0.0.0/0 above matches first",
    ),
    // Keys and tables.
    (
        "[retry]\nfrist = \"1s\"",
        "r.toml:2: retry.frist: unknown key; did you mean `retry.first`?",
    ),
    (
        "[retyr]\nfirst = \"1s\"",
        "r.toml:1: retyr: unknown key; did you mean `retry`?",
    ),
    (
        "[retry]\ncolour = \"red\"",
        "r.toml:2: retry.colour: unknown key; [retry] has first, factor, max, expire, jitter, \
         delay_report",
    ),
    (
        "colour = \"red\"",
        "r.toml:1: colour: unknown key; there are host_name, cores, pin, core_default, core, \
         listener, tls, access, auth, session, spool, retry, dns, route, pool, delivery, event, \
         control, ring",
    ),
    (
        "smart_host = \"a.test\"",
        "r.toml:1: smart_host: unknown key; it belongs to [route]",
    ),
    (
        "recipients_max = 200",
        "r.toml:1: recipients_max: unknown key; it belongs to [[listener]] or [session] or \
         [delivery]",
    ),
    (
        "[[route.rule]]\ndomain = \"x\"\nnext_hop = \"mx\"\nnexthop = \"y\"",
        "r.toml:4: route.rule.nexthop: unknown key; did you mean `route.rule.next_hop`?",
    ),
    (
        "retry = 5",
        "r.toml:1: retry: must be a table: [retry], not 5",
    ),
    (
        "[listener]\naddress = \"127.0.0.1:25\"",
        "r.toml:1: listener: must be tables: [[listener]], not a table",
    ),
    (
        "core = 2",
        "r.toml:1: core: must be tables: [[core]], not 2; did you mean `cores`?",
    ),
    (
        "listener = [\"127.0.0.1:25\"]",
        "r.toml:1: listener: must be tables: [[listener]], not \"127.0.0.1:25\"",
    ),
    (
        "listener = []",
        "r.toml:1: listener: at least one [[listener]] is needed",
    ),
    // Durations.
    (
        "[retry]\nfirst = 5",
        "r.toml:2: retry.first: 5 has no unit; write \"5s\" for seconds",
    ),
    (
        "[retry]\nfirst = \"5\"",
        "r.toml:2: retry.first: \"5\" is not a duration; write a number and a unit: \
         \"50ms\", \"30s\", \"5m\", \"1h 30m\" or \"5d\"",
    ),
    (
        "[retry]\nfirst = \"5 parsecs\"",
        "r.toml:2: retry.first: \"5 parsecs\" is not a duration; write a number and a unit: \
         \"50ms\", \"30s\", \"5m\", \"1h 30m\" or \"5d\"",
    ),
    (
        "[retry]\nfirst = \"5M\"",
        "r.toml:2: retry.first: \"5M\" is not a duration; write a number and a unit: \
         \"50ms\", \"30s\", \"5m\", \"1h 30m\" or \"5d\"",
    ),
    (
        "[retry]\nfirst = true",
        "r.toml:2: retry.first: must be a duration such as \"5m\", not true",
    ),
    (
        "[retry]\nfirst = \"2d\"",
        "r.toml:2: retry.first: \"2d\" is out of range; allowed: 1s to 1d",
    ),
    (
        "[retry]\nfirst = \"5h\"",
        "r.toml:2: retry.first (5h) must not be longer than retry.max (1h)",
    ),
    // Numbers and sizes.
    (
        "[retry]\nfactor = 0.5",
        "r.toml:2: retry.factor: 0.5 is out of range; allowed: 1 to 10",
    ),
    (
        "[retry]\nfactor = nan",
        "r.toml:2: retry.factor: NaN is out of range; allowed: 1 to 10",
    ),
    (
        "[retry]\nfactor = inf",
        "r.toml:2: retry.factor: inf is out of range; allowed: 1 to 10",
    ),
    (
        "[retry]\nfactor = \"two\"",
        "r.toml:2: retry.factor: must be a number, not \"two\"",
    ),
    (
        "[retry]\njitter = 0.9",
        "r.toml:2: retry.jitter: 0.9 is out of range; allowed: 0 to 0.5",
    ),
    (
        "[retry]\njitter = -1",
        "r.toml:2: retry.jitter: -1 is out of range; allowed: 0 to 0.5",
    ),
    (
        "[session]\nrecipients_max = 5",
        "r.toml:2: session.recipients_max: 5 is out of range; allowed: 100 to 10000",
    ),
    (
        "[session]\nrecipients_max = -5",
        "r.toml:2: session.recipients_max: -5 is out of range; allowed: 100 to 10000",
    ),
    (
        "[session]\nrecipients_max = 5.5",
        "r.toml:2: session.recipients_max: must be a whole number, not 5.5",
    ),
    (
        "[session]\nrecipients_max = 99999999999999999999",
        "r.toml:2: session.recipients_max: must be a whole number, not 99999999999999999999",
    ),
    (
        "[session]\nmessage_bytes_max = \"a lot\"",
        "r.toml:2: session.message_bytes_max: \"a lot\" is not a size; write a whole number \
         of bytes, or one with KiB, MiB or GiB (powers of 1024) or kB, MB or GB (of 1000) after \
         it: \"64 KiB\"",
    ),
    (
        "[session]\nmessage_bytes_max = \"1 TiB\"",
        "r.toml:2: session.message_bytes_max: \"1 TiB\" is out of range; allowed: 64 KiB to 2 GiB",
    ),
    (
        "[session]\nmessage_bytes_max = \"99999999999 GiB\"",
        "r.toml:2: session.message_bytes_max: \"99999999999 GiB\" is not a size; write a \
         whole number of bytes, or one with KiB, MiB or GiB (powers of 1024) or kB, MB or GB (of \
         1000) after it: \"64 KiB\"",
    ),
    (
        "[session]\nmessage_bytes_max = -1",
        "r.toml:2: session.message_bytes_max: -1 is out of range; allowed: 64 KiB to 2 GiB",
    ),
    (
        "[session]\nmessage_bytes_max = \"60 MiB\"",
        "r.toml:2: session.message_bytes_max (60 MiB) must not be more than 7/8 of \
         spool.segment_bytes (64 MiB): reduce it to 56 MiB, or raise spool.segment_bytes",
    ),
    (
        "[session]\nmessage_bytes_max = 2020-01-01",
        "r.toml:2: session.message_bytes_max: must be a size such as \"64 KiB\", not 2020-01-01",
    ),
    (
        "[session]\nrecipients_max = 5000",
        "r.toml:2: session.recipients_max (5000) times session.command_line_max (2 KiB) must \
         not be more than 1/8 of spool.segment_bytes (64 MiB)",
    ),
    // The spool.
    (
        "[spool]\nsegment_bytes = \"32 MiB\"",
        "r.toml:2: session.message_bytes_max (50 MiB) must not be more than 7/8 of \
         spool.segment_bytes (32 MiB): reduce it to 28 MiB, or raise spool.segment_bytes",
    ),
    (
        "[spool]\nsegment_bytes = 70000001",
        "r.toml:2: spool.segment_bytes: 70000001 bytes are not a multiple of 4 KiB; the nearest \
         that are: \"68356 KiB\" and \"68360 KiB\"",
    ),
    (
        "[spool]\nsegment_bytes = \"70 MB\"",
        "r.toml:2: spool.segment_bytes: 70000000 bytes are not a multiple of 4 KiB; the nearest \
         that are: \"68356 KiB\" and \"68360 KiB\"",
    ),
    (
        "[spool]\nstream_threshold = \"32 MiB\"",
        "r.toml:2: spool.stream_threshold (32 MiB) must not be more than a quarter of \
         spool.segment_bytes (64 MiB)",
    ),
    (
        "[spool]\ndirectory = \"\"",
        "r.toml:2: spool.directory: \"\" is not a path",
    ),
    (
        "[spool]\ndirectory = 7",
        "r.toml:2: spool.directory: must be text, not 7",
    ),
    // Names, addresses and networks.
    (
        "host_name = \"192.0.2.1\"",
        "r.toml:1: host_name: \"192.0.2.1\" is not a domain name: it is an IP address, not a name",
    ),
    (
        "host_name = \"my_host\"",
        "r.toml:1: host_name: \"my_host\" is not a domain name: '_' is not allowed in a domain \
         name",
    ),
    (
        "host_name = \"-x.example\"",
        "r.toml:1: host_name: \"-x.example\" is not a domain name: \"-x\" begins or ends \
         with a hyphen",
    ),
    (
        "host_name = \"relay.example.\"",
        "r.toml:1: host_name: \"relay.example.\" is not a domain name: no dot at the end",
    ),
    (
        "host_name = \"a..b\"",
        "r.toml:1: host_name: \"a..b\" is not a domain name: each part between dots has 1 to \
         63 characters",
    ),
    (
        "host_name = \"bücher.example\"",
        "r.toml:1: host_name: \"bücher.example\" is not a domain name: write names outside \
         ASCII in their \"xn--\" form",
    ),
    (
        "host_name = \"\"",
        "r.toml:1: host_name: \"\" is not a domain name: it is empty",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1\"",
        "r.toml:2: listener.address: \"127.0.0.1\" has no port; write \"127.0.0.1:25\"",
    ),
    (
        "[[listener]]\naddress = \"::1\"",
        "r.toml:2: listener.address: \"::1\" is not clear: IPv6 addresses need brackets \
         here; write \"[::1]:25\"",
    ),
    (
        "[[listener]]\naddress = \"::1:2587\"",
        "r.toml:2: listener.address: \"::1:2587\" is not clear: IPv6 addresses need brackets \
         here; write \"[::1]:2587\", or \"[::1:2587]:25\" if all of it is the address",
    ),
    (
        "[[listener]]\naddress = \"[::1:2587\"",
        "r.toml:2: listener.address: \"[::1:2587\" is not clear: IPv6 addresses need brackets \
         here; write \"[::1]:2587\", or \"[::1:2587]:25\" if all of it is the address",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:2525\"\n[[listener]]\naddress = \"::1\"",
        "r.toml:4: listener.address: \"::1\" is not clear: IPv6 addresses need brackets \
         here; write \"[::1]:25\"",
    ),
    (
        "[[listener]]\naddress = \"[::1]\"",
        "r.toml:2: listener.address: \"[::1]\" has no port; write \"[::1]:25\"",
    ),
    (
        "[[listener]]\naddress = \":2525\"",
        "r.toml:2: listener.address: \":2525\" has no IP address; write \"127.0.0.1:2525\", \
         or \"0.0.0.0:2525\" for all addresses of this machine",
    ),
    (
        "[[listener]]\naddress = \"2525\"",
        "r.toml:2: listener.address: \"2525\" has no IP address; write \"127.0.0.1:2525\", \
         or \"0.0.0.0:2525\" for all addresses of this machine",
    ),
    (
        "[[listener]]\naddress = \"localhost:2525\"",
        "r.toml:2: listener.address: \"localhost:2525\" is not an IP address and port, such \
         as \"127.0.0.1:2525\"",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:70000\"",
        "r.toml:2: listener.address: \"127.0.0.1:70000\" is not an IP address and port, such \
         as \"127.0.0.1:2525\"",
    ),
    (
        "[[listener]]\naddress = \"127.0.0.1:25\"\n[[listener]]\naddress = \"127.0.0.1:25\"",
        "r.toml:4: listener.address: \"127.0.0.1:25\" is listened on twice: also in line 2",
    ),
    (
        "[[listener]]\n[[listener]]\ntls = \"off\"\naddress = \"127.0.0.1:2525\"",
        "r.toml:4: listener.address: \"127.0.0.1:2525\" is listened on twice: also in line 1",
    ),
    (
        "[access]\nrelay_networks = [\"0.0.0.0/0\"]",
        "r.toml:2: access.relay_networks: \"0.0.0.0/0\" would relay for strangers; name only \
         the networks of your own clients (at least /8 for IPv4, /16 for IPv6)",
    ),
    (
        "[access]\nrelay_networks = [\"::/0\"]",
        "r.toml:2: access.relay_networks: \"::/0\" would relay for strangers; name only the \
         networks of your own clients (at least /8 for IPv4, /16 for IPv6)",
    ),
    (
        "[access]\nrelay_networks = [\"::ffff:0.0.0.0/96\"]",
        "r.toml:2: access.relay_networks: \"::ffff:0.0.0.0/96\" would relay for strangers; \
         name only the networks of your own clients (at least /8 for IPv4, /16 for IPv6)",
    ),
    (
        "[access]\nproxy_networks = [\"0.0.0.0/0\"]",
        "r.toml:2: access.proxy_networks: \"0.0.0.0/0\" would let any client forge its address; \
         name only your own proxies (at least /8 for IPv4, /16 for IPv6)",
    ),
    (
        "[access]\nrelay_networks = [\"10.1.2.3/8\"]",
        "r.toml:2: access.relay_networks: \"10.1.2.3/8\" has address bits after the prefix; \
         write \"10.0.0.0/8\" for the block, or \"10.1.2.3\" for the one address",
    ),
    (
        "[access]\nrelay_networks = [\n  \"10.0.0.0/8\",\n  \"10.0.0.0/33\",\n]",
        "r.toml:4: access.relay_networks: \"10.0.0.0/33\" is not a network; write \
         ADDRESS/BITS: \"192.0.2.0/24\", \"2001:db8::/32\"",
    ),
    (
        "[access]\nrelay_networks = \"10.0.0.0/8\"",
        "r.toml:2: access.relay_networks: must be a list; write [\"10.0.0.0/8\"]",
    ),
    (
        "[access]\nrelay_networks = [8]",
        "r.toml:2: access.relay_networks: must be a list of texts, not of 8",
    ),
    // Name servers.
    (
        "[dns]\nservers = [\"localhost\"]",
        "r.toml:2: dns.servers: \"localhost\" is not the IP address of a name server: \
         \"192.0.2.53\"",
    ),
    (
        "[dns]\nservers = [\"::1\"]",
        "r.toml:2: dns.servers: \"::1\" is not clear: IPv6 addresses need brackets here; \
         write \"[::1]:53\"",
    ),
    (
        "[dns]\nservers = [\"192.0.2.1\", \"192.0.2.1:53\"]",
        "r.toml:2: dns.servers: \"192.0.2.1:53\" is named twice",
    ),
    (
        "[dns]\nservers = []",
        "r.toml:2: dns.servers: at least one name server is needed",
    ),
    (
        "[dns]\nservers = [8]",
        "r.toml:2: dns.servers: must be a list of texts, not of 8",
    ),
    (
        "[dns]\nfailure_ttl = \"1h\"",
        "r.toml:2: dns.failure_ttl: \"1h\" is out of range; allowed: 1s to 5m",
    ),
    // Routes.
    (
        "[route]\nsmart_host = \"2001:db8::1\"",
        "r.toml:2: route.smart_host: \"2001:db8::1\" is not clear: IPv6 addresses need \
         brackets here; write \"[2001:db8::1]:25\"",
    ),
    (
        "[route]\nsmart_host = \"[2001:db8::1\"",
        "r.toml:2: route.smart_host: \"[2001:db8::1\" is not clear: IPv6 addresses need \
         brackets here; write \"[2001:db8::1]:25\"",
    ),
    (
        "[route]\nsmart_host = \"2001:db8:0:0:0:0:0:1:2526\"",
        "r.toml:2: route.smart_host: \"2001:db8:0:0:0:0:0:1:2526\" is not clear: IPv6 addresses \
         need brackets here; write \"[2001:db8::1]:2526\"",
    ),
    (
        "[route]\nsmart_host = \"[relay.example.com]:587\"",
        "r.toml:2: route.smart_host: \"[relay.example.com]:587\" is not a next hop: only IPv6 \
         addresses have brackets here; a host is never looked up by MX, as [HOST] in Postfix's \
         relayhost; write \"relay.example.com:587\"",
    ),
    (
        "[route]\nsmart_host = \"lmtp://[192.0.2.1]\"",
        "r.toml:2: route.smart_host: \"[192.0.2.1]\" is not a next hop: only IPv6 addresses have \
         brackets here; a host is never looked up by MX, as [HOST] in Postfix's relayhost; write \
         \"192.0.2.1\"",
    ),
    (
        "[route]\nsmart_host = \"[a.test\"",
        "r.toml:2: route.smart_host: \"[a.test\" is not a next hop: only IPv6 addresses have \
         brackets here; a host is never looked up by MX, as [HOST] in Postfix's relayhost; write \
         \"a.test\"",
    ),
    (
        "[route]\nsmart_host = \"relay.example.com:smtp\"",
        "r.toml:2: route.smart_host: \"relay.example.com:smtp\" is not a next hop: \"smtp\" \
         is not a port; write \"mx\", \"HOST\" or \"HOST:PORT\", or a host with \"smtps://\" or \
         \"lmtp://\" before it",
    ),
    (
        "[route]\nsmart_host = \"smtp://a.test\"",
        "r.toml:2: route.smart_host: \"smtp://a.test\" is not a next hop: smtp:// is not \
         supported; write \"mx\", \"HOST\" or \"HOST:PORT\", or a host with \"smtps://\" or \
         \"lmtp://\" before it",
    ),
    (
        "[route]\nsmart_host = \"a:25, b:25\"",
        "r.toml:2: route.smart_host: \"a:25, b:25\" is not a next hop: a list is not allowed; \
         write \"mx\", \"HOST\" or \"HOST:PORT\", or a host with \"smtps://\" or \"lmtp://\" \
         before it",
    ),
    (
        "[route]\nsmart_host = \"relay example.com\"",
        "r.toml:2: route.smart_host: \"relay example.com\" is not a next hop: ' ' is not allowed \
         in a domain name; write \"mx\", \"HOST\" or \"HOST:PORT\", or a host with \"smtps://\" or \
         \"lmtp://\" before it",
    ),
    (
        "[route]\nport = 0",
        "r.toml:2: route.port: 0 is out of range; allowed: 1 to 65535",
    ),
    (
        "[[route.rule]]\nnext_hop = \"mx\"",
        "r.toml:1: route.rule.domain: missing; write domain = \".int.example.com\"",
    ),
    (
        "[[route.rule]]\ndomain = \"example.com\"",
        "r.toml:1: route.rule.next_hop: missing; write next_hop = \"mail.inside.example.com:25\"",
    ),
    (
        "[[route.rule]]\ndomain = \"a@b\"\nnext_hop = \"mx\"",
        "r.toml:2: route.rule.domain: \"a@b\" is not a domain: '@' is not allowed in a domain \
         name; write \"example.com\", \".example.com\" or \"*\"",
    ),
    (
        "[[route.rule]]\ndomain = \"*\"\nnext_hop = \"mx\"\n[[route.rule]]\ndomain = \
         \"x.org\"\nnext_hop = \"mx\"",
        "r.toml:5: route.rule.domain: never reached: the rule for \"*\" above matches first",
    ),
    (
        "[[route.rule]]\ndomain = \".org\"\nnext_hop = \"mx\"\n[[route.rule]]\ndomain = \
         \"X.org\"\nnext_hop = \"mx\"",
        "r.toml:5: route.rule.domain: never reached: the rule for \".org\" above matches first",
    ),
    // Outputs and rings.
    (
        "[event]\noutput = \"syslog\"",
        "r.toml:2: event.output: \"syslog\" is not a valid value; write \"file\", \"stdout\" or \
         \"off\"",
    ),
    (
        "[ring]\ndepth = 100",
        "r.toml:2: ring.depth: 100 is not a power of two; the nearest are 64 and 128",
    ),
    // Shards.
    (
        "cores = 0",
        "r.toml:1: cores: at least one shard is needed",
    ),
    (
        "cores = 5",
        "r.toml:1: cores: 5 shards are too many: at most 4 here, one for each CPU (or any number \
         with pin = false)",
    ),
    (
        "pin = false\ncores = 1025",
        "r.toml:2: cores: 1025 shards are too many: at most 1024",
    ),
    (
        "cores = \"3-1\"",
        "r.toml:1: cores: \"3-1\": 3-1 is descending; write 1-3",
    ),
    (
        "cores = \"0,x\"",
        "r.toml:1: cores: \"0,x\" is not a list of CPU numbers, such as \"0-3,8\"",
    ),
    (
        "cores = -1",
        "r.toml:1: cores: must be \"all\", a number of shards, or a list of CPU numbers such \
         as [0, 1], not -1",
    ),
    (
        "cores = \"some\"",
        "r.toml:1: cores: must be \"all\", a number of shards, or a list of CPU numbers such \
         as [0, 1], not \"some\"",
    ),
    (
        "cores = [0, 7]",
        "r.toml:1: cores: CPU 7 may not be used here; usable: 0-3",
    ),
    (
        "cores = [1, 1]",
        "r.toml:1: cores: CPU 1 is named twice",
    ),
    (
        "cores = []",
        "r.toml:1: cores: at least one shard is needed",
    ),
    (
        "cores = [0, \"1\"]",
        "r.toml:1: cores: a list of CPU numbers, such as [0, 1], cannot contain \"1\"",
    ),
    (
        "pin = \"no\"",
        "r.toml:1: pin: must be true or false, not \"no\"",
    ),
    (
        "pin = false\ncores = [0]",
        "r.toml:2: cores: names CPUs, but pin = false pins to none; give a number of shards",
    ),
    (
        "pin = false\n[[core]]\ncpu = 0",
        "r.toml:3: core.cpu: pin = false pins to no CPU; leave [[core]] out",
    ),
    (
        "[[core]]\nspool = \"/x\"",
        "r.toml:1: core.cpu: missing; write cpu = 0",
    ),
    (
        "[[core]]\ncpu = 9",
        "r.toml:2: core.cpu: CPU 9 runs no shard; shards: 0-3",
    ),
    (
        "[[core]]\ncpu = \"0\"",
        "r.toml:2: core.cpu: must be a whole number, not \"0\"",
    ),
    (
        "[[core]]\ncpu = 0\n[[core]]\ncpu = 0",
        "r.toml:4: core.cpu: CPU 0 has a [[core]] above",
    ),
    (
        "[[core]]\ncpu = 0\nspool = \"/x\"\n[[core]]\ncpu = 1\nspool = \"/x\"",
        "r.toml:6: two shards have the same spool: \"/x\"",
    ),
    (
        "[[core]]\ncpu = 0\nspol = \"/x\"\nconnections_max = 0",
        "r.toml:3: core.spol: unknown key; did you mean `core.spool`?\nr.toml:4: \
         core.connections_max: 0 is out of range; allowed: 1 to 100000",
    ),
    (
        "[core_default]\nhot_bytes_max = \"1 TiB\"",
        "r.toml:2: core_default.hot_bytes_max: \"1 TiB\" is out of range; allowed: 0 to 64 GiB",
    ),
];

/// A key or dedicated flag with a value on the command line, and the error text.
#[rustfmt::skip]
const ON_THE_COMMAND_LINE: &[(&str, &str, &str)] = &[
    (
        "retry.frist", "2s",
        "--set retry.frist: unknown key; did you mean `retry.first`?",
    ),
    (
        "retyr.first", "2s",
        "--set retyr.first: unknown key; did you mean `retry.first`?",
    ),
    (
        "colour", "red",
        "--set colour: unknown key; there are host_name, cores, pin, core_default, core, \
         listener, tls, access, auth, session, spool, retry, dns, route, pool, delivery, event, \
         control, ring",
    ),
    (
        "retry.first.x", "2s",
        "--set retry.first.x: must be a duration such as \"5m\", not a table",
    ),
    (
        "retry", "5",
        "--set retry: must be a table: [retry], not 5",
    ),
    (
        "", "5",
        "--set : not a key; write TABLE.KEY=VALUE, such as retry.first=5m",
    ),
    (
        "retry..first", "5",
        "--set retry..first: not a key; write TABLE.KEY=VALUE, such as retry.first=5m",
    ),
    (
        "listener.address", "127.0.0.1:1",
        "--set listener.address: [[listener]] is a list of tables; write --listen ADDR:PORT, or \
         give all of them at once as TOML, 'listener=[{KEY = VALUE, ...}]', or write them in the \
         file",
    ),
    (
        "access.limit", "5",
        "--set access.limit: [[access.limit]] is a list of tables; give all of them at once as \
         TOML, 'access.limit=[{KEY = VALUE, ...}]', or write them in the file",
    ),
    (
        "core", "2",
        "--set core: [[core]] is a list of tables; give all of them at once as TOML, \
         'core=[{KEY = VALUE, ...}]', or write them in the file",
    ),
    (
        "access.relay_networks", "10.0.0.0/8,0.0.0.0/0",
        "--set access.relay_networks: \"0.0.0.0/0\" would relay for strangers; name only the \
         networks of your own clients (at least /8 for IPv4, /16 for IPv6)",
    ),
    (
        "retry.first", "5",
        "--set retry.first: 5 has no unit; write \"5s\" for seconds",
    ),
    (
        "retry.first", "5h",
        "--set retry.first: retry.first (5h) must not be longer than retry.max (1h)",
    ),
    (
        "--listen", "127.0.0.1",
        "--listen: \"127.0.0.1\" has no port; write \"127.0.0.1:25\"",
    ),
    (
        "--listen", "127.0.0.1:1,127.0.0.1:1",
        "--listen: \"127.0.0.1:1\" is listened on twice",
    ),
    (
        "--listen", "::1",
        "--listen: \"::1\" is not clear: IPv6 addresses need brackets here; write \"[::1]:25\"",
    ),
    (
        "--spool", "",
        "--spool: \"\" is not a path",
    ),
    (
        "--cores", "9",
        "--cores: 9 shards are too many: at most 4 here, one for each CPU (or any number with pin \
         = false)",
    ),
    (
        "--cores", "3-1",
        "--cores: \"3-1\": 3-1 is descending; write 1-3",
    ),
    (
        "--cores", "0,9",
        "--cores: CPU 9 may not be used here; usable: 0-3",
    ),
    (
        "--cores", "x",
        "--cores: must be \"all\", a number of shards, or a list of CPU numbers such as [0, \
         1], not \"x\"",
    ),
    (
        "--smart-host", "::1",
        "--smart-host: \"::1\" is not clear: IPv6 addresses need brackets here; write \
         \"[::1]:25\"",
    ),
    (
        "event.output", "syslog",
        "--set event.output: \"syslog\" is not a valid value; write \"file\", \"stdout\" or \
         \"off\"",
    ),
    (
        "session.recipients_max", "many",
        "--set session.recipients_max: must be a whole number, not \"many\"",
    ),
];

#[test]
fn a_mistake_in_the_file_is_reported_with_its_line_and_what_would_be_right() {
    let wrong: Vec<String> = IN_THE_FILE
        .iter()
        .filter(|(text, expected)| fault(text, &[]) != *expected)
        .map(|(text, expected)| format!("{text}\n  is {}\n not {expected}", fault(text, &[])))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_mistake_on_the_command_line_is_reported_with_its_flag() {
    let reported = |key, value| fault("", &[(key, value)]);
    let wrong: Vec<String> = ON_THE_COMMAND_LINE
        .iter()
        .filter(|(key, value, expected)| reported(key, value) != *expected)
        .map(|(key, value, expected)| {
            format!("{key} {value}\n  is {}\n not {expected}", reported(key, value))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_socket_path_that_is_too_long_is_reported_with_the_key_that_caused_it() {
    let long = format!("/{}", "d".repeat(100));
    let what = format!(
        "the path of control.socket has 114 bytes, and the kernel allows at most 107: \
         \"{long}/control.sock\"; set control.socket to a shorter one"
    );
    let text = format!("[spool]\ndirectory = \"{long}\"");
    assert_eq!(fault(&text, &[]), format!("r.toml:2: {what}"));
    assert_eq!(fault("", &[("--spool", &long)]), format!("--spool: {what}"));
    assert!(read(&text, &[("control.socket", "/run/ringpost.sock")]).is_ok());
}

#[test]
fn all_mistakes_are_reported_at_once_the_file_first() {
    let text = "[retry]\nfirst = \"1\"\nmax = \"9d\"\n\n[pool]\nidel = \"1s\"\n";
    let line = [("retry.frist", "2s"), ("--cores", "9"), ("listener.address", "x")];
    let expected = [
        "r.toml:2: retry.first: \"1\" is not a duration; write a number and a unit: \"50ms\", \
         \"30s\", \"5m\", \"1h 30m\" or \"5d\"",
        "r.toml:3: retry.max: \"9d\" is out of range; allowed: 1s to 7d",
        "r.toml:6: pool.idel: unknown key; did you mean `pool.idle`?",
        "--cores: 9 shards are too many: at most 4 here, one for each CPU (or any number with pin \
         = false)",
        "--set listener.address: [[listener]] is a list of tables; write --listen ADDR:PORT, or \
         give all of them at once as TOML, 'listener=[{KEY = VALUE, ...}]', or write them in the \
         file",
        "--set retry.frist: unknown key; did you mean `retry.first`?",
    ];
    assert_eq!(fault(text, &line), expected.join("\n"));
}

#[test]
fn a_path_cannot_reach_into_tables_of_a_list() {
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    assert_eq!(
        fault(text, &[("listener.address", "127.0.0.1:2")]),
        "--set listener.address: [[listener]] is a list of tables; write --listen ADDR:PORT, or \
         give all of them at once as TOML, 'listener=[{KEY = VALUE, ...}]', or write them in the \
         file"
    );
    let text = "[[access.limit]]\nnetwork = \"192.0.2.0/24\"\n";
    assert_eq!(
        fault(text, &[("access.limit.messages_per_hour", "1")]),
        "--set access.limit.messages_per_hour: [[access.limit]] is a list of tables; give all of \
         them at once as TOML, 'access.limit=[{KEY = VALUE, ...}]', or write them in the file"
    );
}
