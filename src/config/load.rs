//! Makes a checked configuration from a file, the command line and the machine.
//!
//! The order: defaults, then the file, then dedicated flags, then `--set`. Later ones win, and all
//! are checked in the same way.

use super::error::ConfigError;
use super::machine::Machine;
use super::source::{self, Override, OverrideFlag, Tree};
use super::table::Report;
use super::{Config, EventOutput, HostName, NextHop, Scheme, written};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/ringpost/ringpost.toml";

/// Where a configuration comes from, to read it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file; `None` for the defaults.
    pub file: Option<PathBuf>,
    /// The values from the command line.
    pub overrides: Vec<Override>,
}

impl Origin {
    /// The file is the one that was `named` (--config), else the one that `environment`
    /// (RINGPOST_CONFIG) names, else [`DEFAULT_FILE`] if it exists.
    pub fn find(
        named: Option<&Path>,
        environment: Option<&OsStr>,
        overrides: Vec<Override>,
    ) -> Origin {
        let default = Path::new(DEFAULT_FILE);
        let file = match (named, environment) {
            (Some(named), _) => Some(named.to_owned()),
            // An empty value asks for the defaults.
            (None, Some(name)) if name.is_empty() => None,
            (None, Some(name)) => Some(name.into()),
            (None, None) => default.exists().then(|| default.to_owned()),
        };
        Origin { file, overrides }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.overrides)
    }

    /// The name of the file, or a text that says that there is none.
    pub fn describe(&self) -> String {
        match &self.file {
            Some(file) => file.display().to_string(),
            None => format!("no file, so the defaults ({DEFAULT_FILE} does not exist)"),
        }
    }
}

/// A named pipe is refused: reading it may never end.
fn read_file(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.file_type().is_fifo() {
        return Err(std::io::Error::other("it is a named pipe; use a regular file"));
    }
    std::fs::read_to_string(path)
}

impl Config {
    /// Reads the configuration from `file` (or uses the defaults) with `overrides` applied, on this
    /// machine.
    ///
    /// # Errors
    /// The file cannot be read, or there are mistakes in it or in the overrides: all are listed.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Config, ConfigError> {
        let unreadable = |path: &Path, error: std::io::Error| {
            let error = match error.kind() {
                std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
                _ => error.to_string(),
            };
            ConfigError::Unreadable { path: path.into(), error }
        };
        let (name, text) = match file {
            Some(path) => {
                let text = read_file(path).map_err(|error| unreadable(path, error))?;
                (path.display().to_string(), text)
            }
            None => Default::default(),
        };
        Config::read(&name, &text, overrides, &Machine::this())
    }

    /// Reads the configuration from `text`, for `machine`; error messages call the text `name`.
    ///
    /// # Errors
    /// All mistakes in the text and the overrides.
    pub fn read(
        name: &str,
        text: &str,
        overrides: &[Override],
        machine: &Machine,
    ) -> Result<Config, ConfigError> {
        let report = Report::new(machine.clone(), written::tables_with);
        let tree = gather(name, text, overrides, &report)?;
        let config = written::read(tree, &report);
        let problems = report.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Warnings for the operator about settings that are allowed but rarely intended.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.host_name.contains('.') {
            warnings.push(format!(
                "host_name is {:?}, which has no domain, and many servers refuse mail from such a \
                 name; set it to the name of this machine in the DNS: host_name = \
                 \"mail.example.com\"",
                self.host_name
            ));
        }
        if self.event.output == EventOutput::Off {
            warnings
                .push("event.output is \"off\": no record is kept of what happens to mail".into());
        }
        if self.access.relay_networks.is_empty() {
            warnings.push("access.relay_networks is empty: no client may relay".into());
        }
        let asks = self.listeners.iter().any(|listener| listener.client_certificates);
        if self.tls.client_roots.is_some() && !asks {
            warnings.push(
                "tls.client_roots is set, but no listener asks for certificates; set \
                 client_certificates = true"
                    .into(),
            );
        }
        if self.retry.expire < self.retry.first {
            warnings.push(
                "retry.expire is shorter than retry.first: no message is tried a second \
                 time"
                    .into(),
            );
        }
        if self.retry.delay_report.is_some_and(|wait| wait >= self.retry.expire) {
            warnings.push(
                "retry.delay_report is not shorter than retry.expire: delays are never reported; \
                 write \"off\" if that is intended"
                    .into(),
            );
        }
        self.warn_of_names(&mut warnings);
        warnings
    }

    /// Warns about valid values that probably mean something else than intended.
    fn warn_of_names(&self, warnings: &mut Vec<String>) {
        let hops = self.route.rules.iter().filter_map(|rule| rule.next_hop.as_ref());
        for hop in self.route.smart_host.iter().chain(hops) {
            if let HostName::Name(name) = &hop.host
                && !name.contains('.')
                && &**name != "localhost"
            {
                warnings.push(format!(
                    "the next hop {name:?} is taken as a host name without a domain; write the \
                     full name if a domain is missing"
                ));
            }
            warn_of_port(hop, warnings);
        }
        let socket = self.control.socket.to_string_lossy();
        if socket.parse::<SocketAddr>().is_ok() {
            warnings.push(format!(
                "control.socket must be the path of a Unix socket, but {socket:?} looks like an \
                 address"
            ));
        }
        let has_users = self.auth.users.is_some() || self.auth.tokens.is_some();
        if has_users && self.tls.certificates.is_empty() && !self.auth.without_tls {
            warnings.push(
                "there are users but no certificate, so AUTH is never offered; set tls.cert and \
                 tls.key (or auth.without_tls = true)"
                    .into(),
            );
        }
    }
}

/// TLS begins with the first byte on port 465 (RFC 8314), and with STARTTLS on 25 and 587.
fn warn_of_port(hop: &NextHop, warnings: &mut Vec<String>) {
    let host = match &hop.host {
        HostName::Name(name) => name.to_string(),
        HostName::Address(IpAddr::V6(address)) => format!("[{address}]"),
        HostName::Address(address) => address.to_string(),
    };
    let port = hop.port;
    let text = match (hop.scheme, port) {
        (Scheme::Smtp, 465) => format!(
            "the next hop {host}:465 is spoken to in plain SMTP, but servers expect TLS from the \
             first byte on port 465; write \"smtps://{host}\""
        ),
        (Scheme::Smtps, 25 | 587) => format!(
            "the next hop smtps://{host}:{port} is spoken to with TLS from the first byte, but \
             servers expect STARTTLS on port {port}; write \"{host}:{port}\" with tls = \"must\", \
             or \"smtps://{host}\" for port 465"
        ),
        _ => return,
    };
    if !warnings.contains(&text) {
        warnings.push(text);
    }
}

/// Merges file and overrides into one tree. Overrides that do not fit are reported and left out.
fn gather(
    name: &str,
    text: &str,
    overrides: &[Override],
    report: &Report,
) -> Result<Tree, ConfigError> {
    let mut tree = source::read_file(text, &Arc::from(name)).map_err(ConfigError::Wrong)?;
    let (sets, dedicated): (Vec<_>, Vec<_>) =
        overrides.iter().partition(|over| over.flag == OverrideFlag::Set);
    for over in dedicated.into_iter().chain(sets) {
        if let Err(problem) = source::lay_over(&mut tree, over) {
            report.add(&problem.place, &problem.key, problem.what);
        }
    }
    Ok(tree)
}
