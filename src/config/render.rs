//! The effective configuration, written as a file again: what the relay understood.
//!
//! What is rendered reads back as the same configuration.

use super::tls::show_listener_tls;
use super::unit::{show_duration, show_network, show_next_hop, show_size};
use super::{Config, EventOutput, NextHop, Roots, Route, Tokens, TransportPolicy};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

impl Config {
    /// The whole configuration as TOML, every key with the value that holds.
    pub fn render(&self) -> String {
        let mut page = Page(String::new());
        page.text("host_name", &self.host_name);
        self.render_cores(&mut page);
        for listener in &self.listeners {
            page.head("[[listener]]");
            page.text("address", &listener.address.to_string());
            page.text("tls", show_listener_tls(listener.tls));
            page.plain("scheduling", &listener.scheduling.to_string());
            page.plain("client_certificates", &listener.client_certificates.to_string());
            page.text("role", listener.role.name());
            if let Some(bytes) = listener.message_bytes_max {
                page.size("message_bytes_max", bytes);
            }
            if let Some(count) = listener.recipients_max {
                page.count("recipients_max", count as u64);
            }
        }
        self.render_tls(&mut page);
        page.head("[access]");
        page.texts("relay_networks", self.access.relay_networks.iter().map(show_network));
        page.texts("proxy_networks", self.access.proxy_networks.iter().map(show_network));
        page.texts("xclient_networks", self.access.xclient_networks.iter().map(show_network));
        for limit in &self.access.limits {
            page.head("[[access.limit]]");
            page.text("network", &show_network(&limit.network));
            page.count("messages_per_hour", limit.hourly.messages.into());
            page.count("recipients_per_hour", limit.hourly.recipients.into());
        }
        self.render_auth(&mut page);
        self.render_receiving(&mut page);
        self.render_sending(&mut page);
        self.render_house(&mut page);
        page.0
    }

    fn render_tls(&self, page: &mut Page) {
        let tls = &self.tls;
        page.head("[tls]");
        page.text("min_version", if tls.only_1_3 { "1.3" } else { "1.2" });
        match &tls.roots {
            Roots::System => page.text("roots", "system"),
            Roots::File(path) => page.path("roots", path),
        }
        if let Some(path) = &tls.client_roots {
            page.path("client_roots", path);
        }
        for certificate in &tls.certificates {
            page.head("[[tls.certificate]]");
            page.path("cert", &certificate.cert);
            page.path("key", &certificate.key);
        }
    }

    fn render_login(&self, page: &mut Page, next_hop: &Option<NextHop>) {
        let place = next_hop.as_ref().and_then(|hop| hop.login);
        if let Some(login) = place.and_then(|place| self.route.logins.get(usize::from(place))) {
            page.path("auth", &login.file);
            page.plain("auth_without_tls", &login.without_tls.to_string());
        }
    }

    fn render_auth(&self, page: &mut Page) {
        page.head("[auth]");
        if let Some(users) = &self.auth.users {
            page.path("users", users);
        }
        page.plain("without_tls", &self.auth.without_tls.to_string());
        page.duration("failure_delay", self.auth.failure_delay);
        page.count("failures_per_address", self.auth.failures_per_address.into());
        page.count("failures_per_user", self.auth.failures_per_user.into());
        page.duration("failure_window", self.auth.failure_window);
        page.count("messages_per_hour", self.auth.hourly.messages.into());
        page.count("recipients_per_hour", self.auth.hourly.recipients.into());
        if let Some(tokens) = &self.auth.tokens {
            render_tokens(tokens, page);
        }
    }

    fn render_cores(&self, page: &mut Page) {
        let cpus: Vec<usize> = self.cores.iter().filter_map(|core| core.cpu).collect();
        let pinned = cpus.len() == self.cores.len();
        if pinned {
            page.plain("cores", &format!("{cpus:?}"));
            page.plain("pin", "true");
        } else {
            page.plain("cores", &self.cores.len().to_string());
            page.plain("pin", "false");
        }
        if let (false, Some(core)) = (pinned, self.cores.first()) {
            page.head("[core_default]");
            page.count("connections_max", core.connections_max as u64);
            page.size("hot_bytes_max", core.hot_bytes_max as u64);
            page.size("content_bytes_max", core.content_bytes_max as u64);
            page.count("queue_recipients_max", core.queue_recipients_max as u64);
        }
        for core in &self.cores {
            let Some(cpu) = core.cpu.filter(|_| pinned) else { continue };
            page.head("[[core]]");
            page.count("cpu", cpu as u64);
            page.path("spool", &core.spool);
            page.count("connections_max", core.connections_max as u64);
            page.size("hot_bytes_max", core.hot_bytes_max as u64);
            page.size("content_bytes_max", core.content_bytes_max as u64);
            page.count("queue_recipients_max", core.queue_recipients_max as u64);
        }
    }

    fn render_receiving(&self, page: &mut Page) {
        let session = &self.session;
        page.head("[session]");
        page.size("message_bytes_max", session.message_bytes_max);
        page.count("recipients_max", session.recipients_max as u64);
        page.size("command_line_max", session.command_line_max as u64);
        page.size("text_line_max", session.text_line_max as u64);
        page.count("errors_max", session.errors_max.into());
        page.count("received_max", session.received_max.into());
        page.count("messages_max", session.messages_max.into());
        page.plain("vrfy", &session.vrfy.to_string());
        page.duration("hold_max", session.hold_max);
        page.duration("command_timeout", session.command_timeout);
        page.duration("data_timeout", session.data_timeout);
        page.duration("tls_timeout", session.tls_timeout);
        page.count("connections_per_client", session.connections_per_client as u64);
        page.count("connections_per_relay_client", session.connections_per_relay_client as u64);

        let spool = &self.spool;
        page.head("[spool]");
        page.path("directory", &spool.directory);
        page.size("segment_bytes", spool.segment_bytes);
        page.size("stream_threshold", spool.stream_threshold as u64);
        page.duration("outcome_interval", spool.outcome_interval);
    }

    fn render_sending(&self, page: &mut Page) {
        let retry = &self.retry;
        page.head("[retry]");
        page.duration("first", retry.first);
        page.plain("factor", &format!("{:?}", retry.factor));
        page.duration("max", retry.max);
        page.duration("expire", retry.expire);
        page.plain("jitter", &format!("{:?}", retry.jitter));
        match retry.delay_report {
            Some(wait) => page.duration("delay_report", wait),
            None => page.text("delay_report", "off"),
        }

        let dns = &self.dns;
        page.head("[dns]");
        page.texts("servers", dns.servers.iter().map(|server| server.to_string()));
        page.duration("timeout", dns.timeout);
        page.count("attempts", dns.attempts.into());
        page.count("cache_entries_max", dns.cache_entries_max as u64);
        page.duration("ttl_max", dns.ttl_max);
        page.duration("failure_ttl", dns.failure_ttl);

        let hop = |hop: &Option<NextHop>| hop.as_ref().map_or("mx".into(), show_next_hop);
        page.head("[route]");
        page.text("smart_host", &hop(&self.route.smart_host));
        self.render_login(page, &self.route.smart_host);
        page.count("port", self.route.port.into());
        page.policy(&self.route, &self.route.policy);
        for rule in &self.route.rules {
            page.head("[[route.rule]]");
            page.text("domain", &rule.domain);
            page.text("next_hop", &hop(&rule.next_hop));
            self.render_login(page, &rule.next_hop);
            page.policy(&self.route, &rule.policy);
        }

        let pool = &self.pool;
        page.head("[pool]");
        page.count("connections_per_site", pool.connections_per_site as u64);
        page.count("messages_per_connection", pool.messages_per_connection.into());
        page.duration("idle", pool.idle);
        page.count("stripe_connections_min", pool.stripe_connections_min as u64);
        page.count("connections_max", pool.connections_max as u64);

        let delivery = &self.delivery;
        page.head("[delivery]");
        page.duration("connect_timeout", delivery.connect_timeout);
        page.duration("tls_timeout", delivery.tls_timeout);
        page.duration("greeting_timeout", delivery.greeting_timeout);
        page.duration("hello_timeout", delivery.hello_timeout);
        page.duration("mail_timeout", delivery.mail_timeout);
        page.duration("recipient_timeout", delivery.recipient_timeout);
        page.duration("data_timeout", delivery.data_timeout);
        page.duration("content_timeout", delivery.content_timeout);
        page.duration("end_of_data_timeout", delivery.end_of_data_timeout);
        page.count("recipients_max", delivery.recipients_max as u64);
    }

    fn render_house(&self, page: &mut Page) {
        page.head("[event]");
        match &self.event.output {
            EventOutput::Off => page.text("output", "off"),
            EventOutput::Stdout => page.text("output", "stdout"),
            EventOutput::File(file) => {
                page.text("output", "file");
                page.path("file", file);
            }
        }
        page.size("rotate_bytes", self.event.rotate_bytes);
        page.count("keep", self.event.keep as u64);

        page.head("[control]");
        page.path("socket", &self.control.socket);
        page.duration("stop_within", self.control.stop_within);

        page.head("[ring]");
        page.count("depth", self.ring.depth as u64);
        page.duration("preempt", self.ring.preempt);
    }
}

fn render_tokens(tokens: &Tokens, page: &mut Page) {
    page.head("[auth.tokens]");
    page.text("introspection_endpoint", &tokens.introspection_endpoint);
    page.text("client_id", &tokens.client_id);
    page.path("client_secret_file", &tokens.client_secret_file);
    match &tokens.roots {
        Roots::System => page.text("roots", "system"),
        Roots::File(path) => page.path("roots", path),
    }
    page.duration("timeout", tokens.timeout);
    page.text("user_field", &tokens.user_field);
    for (key, value) in [
        ("scope", &tokens.scope),
        ("audience", &tokens.audience),
        ("openid_configuration", &tokens.openid_configuration),
    ] {
        if let Some(value) = value {
            page.text(key, value);
        }
    }
    page.duration("ttl_max", tokens.ttl_max);
}

/// The text so far. A `String` takes every write.
struct Page(String);

impl Page {
    fn head(&mut self, table: &str) {
        let _ = writeln!(self.0, "\n{table}");
    }

    fn plain(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.plain(key, &toml::Value::from(text).to_string());
    }

    fn texts(&mut self, key: &str, texts: impl Iterator<Item = String>) {
        let list: Vec<toml::Value> = texts.map(toml::Value::from).collect();
        self.plain(key, &toml::Value::from(list).to_string());
    }

    fn policy(&mut self, route: &Route, policy: &TransportPolicy) {
        self.text("tls", policy.tls.name());
        self.text("eight_bit", policy.eight_bit.name());
        self.plain("chunking", &policy.chunking.to_string());
        if let Some(shown) = policy.certificate.and_then(|place| route.certificates.get(place)) {
            self.path("tls_cert", &shown.cert);
            self.path("tls_key", &shown.key);
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.to_string_lossy());
    }

    fn count(&mut self, key: &str, count: u64) {
        self.plain(key, &count.to_string());
    }

    /// Small sizes as plain numbers.
    fn size(&mut self, key: &str, bytes: u64) {
        if bytes < 1024 {
            self.count(key, bytes);
        } else {
            self.text(key, &show_size(bytes));
        }
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, &show_duration(duration));
    }
}
