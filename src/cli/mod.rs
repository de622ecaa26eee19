//! The command line: reads the flags, calls the module that does the work, and prints the result.
//!
//! It must not know how anything works.

mod arguments;
mod log_filter;
mod show;
mod spool;
mod user;

use crate::auth::{self, UsersError};
use crate::config::{self, Config, Origin};
use crate::control::{self, RequestError};
use crate::credentials;
use crate::ring;
use crate::shard::{self, HealthEntry};
use crate::spool::{Spool, lock};
use crate::tls::{Client, ClientFiles, Server};
use arguments::{Arguments, Command, ConfigCommand, QueueCommand};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// The configuration, the command line or the request was wrong.
const EXIT_USAGE: u8 = 2;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::read();
    let settings = arguments.settings();
    // These need no configuration.
    match &arguments.command {
        Some(Command::Version) => return print(&format!("ringpost {VERSION}\n")),
        Some(Command::Config { command: ConfigCommand::Annotated, .. }) => {
            return print(&config::annotated());
        }
        Some(Command::Config { command: ConfigCommand::Schema, .. }) => {
            return print(&format!("{:#}\n", config::schema()));
        }
        _ => {}
    }
    let environment = std::env::var_os("RINGPOST_CONFIG");
    let origin = Origin::find(settings.config(), environment.as_deref(), settings.overrides());
    let config = match origin.load() {
        Ok(config) => config,
        Err(error) => {
            // One line for each mistake.
            for line in error.to_string().lines() {
                eprintln!("ringpost: {line}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match arguments.command {
        None | Some(Command::Serve { .. }) => serve(config, origin),
        Some(Command::Check { live, .. }) => {
            warn(&config);
            let can_start = preflight(&config, live);
            let shown = Server::new(&config.tls).map(|_| ());
            let ours = || {
                let files = ClientFiles::new(&config.tls, &config.route.certificates)?;
                Client::new(&config.tls, &files).map(|_| ())
            };
            let tokens = || config.auth.tokens.as_ref().map_or(Ok(()), auth::check_tokens);
            let checked = shown
                .and_then(|()| ours())
                .map_err(UsersError::from)
                .and_then(|()| user::check(&config))
                .and_then(|()| tokens())
                .and_then(|()| credentials::check_logins(&config.route.logins));
            if let Err(error) = checked {
                let problem = config.problem_with(error.file(), error.to_string());
                eprintln!("ringpost: {problem}");
                return ExitCode::from(EXIT_USAGE);
            }
            let shown =
                print(&format!("# configuration: {}\n{}", origin.describe(), config.render()));
            // The configuration is valid, but not on this machine.
            if can_start { shown } else { ExitCode::FAILURE }
        }
        Some(Command::Config { command, .. }) => match command {
            ConfigCommand::Show { key, .. } => match config.explain(&key) {
                Ok(page) => print(&page),
                Err(error) => {
                    eprintln!("ringpost: {error}");
                    ExitCode::from(EXIT_USAGE)
                }
            },
            _ => print(&config.list()),
        },
        Some(Command::Version) => ExitCode::SUCCESS,
        Some(Command::Health { .. }) => health(&config),
        Some(Command::Queue { command, .. }) => queue(&config, &command),
        Some(Command::Spool { command, .. }) => spool::run(&config, command),
        Some(Command::User { command, .. }) => user::run(&config, command),
    }
}

/// Prints a text to standard output, which may be closed early (`| head`).
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn serve(config: Config, origin: Origin) -> ExitCode {
    let wished = std::env::var("RINGPOST_LOG").unwrap_or_default();
    let (filter, faults) = log_filter::filter(&wished);
    for fault in faults {
        eprintln!("ringpost: warning: RINGPOST_LOG: {fault}");
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    warn(&config);
    tracing::info!(file = origin.describe(), "configuration read");
    match control::serve(config, origin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reports problems with this machine that would show at start or with the first message; false if
/// a start would fail.
fn preflight(config: &Config, live: bool) -> bool {
    let findings = if live { control::live(config) } else { control::preflight(config) };
    for warning in findings.warnings {
        eprintln!("ringpost: warning: {warning}");
    }
    for fact in findings.facts.iter().filter(|_| live) {
        eprintln!("ringpost: ok: {fact}");
    }
    for fault in &findings.faults {
        eprintln!("ringpost: the relay would not start here: {fault}");
    }
    findings.faults.is_empty()
}

/// Asks the relay whether its shards take mail.
fn health(config: &Config) -> ExitCode {
    let mut shards = 0_usize;
    match control::request(&config.control.socket, "/health", |_| shards += 1) {
        Ok(()) => print(&format!("ok: {} mail\n", counted(shards, "shard takes", "shards take"))),
        Err(RequestError::Refused(answer)) => {
            let entries = answer.lines().map(serde_json::from_str::<HealthEntry>);
            for entry in entries.flatten().filter(|entry| !entry.ok) {
                let reason = entry.reason.as_deref().unwrap_or("it takes no mail");
                eprintln!("ringpost: shard {}: {reason}", entry.shard);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn warn(config: &Config) {
    for warning in config.warnings() {
        eprintln!("ringpost: warning: {warning}");
    }
}

fn queue(config: &Config, command: &QueueCommand) -> ExitCode {
    let (target, json) = match command {
        QueueCommand::List { limit, filter, json, .. } => {
            let domain =
                filter.domain.as_deref().map(|domain| format!("&domain={}", escape(domain)));
            // One more than is shown, to know whether there are more. If the relay cannot apply the
            // filter, it is applied here, to all.
            let all = *limit == 0 || !filter.is_plain();
            let limit = if all { 0 } else { limit.saturating_add(1) };
            (format!("/queue?limit={limit}{}", domain.unwrap_or_default()), *json)
        }
        QueueCommand::Show { id, json, .. } => (format!("/queue/{id}"), *json),
        QueueCommand::Sites { json, .. } => ("/sites".to_owned(), *json),
        QueueCommand::Summary { json, .. } => ("/summary".to_owned(), *json),
    };
    let mut screen = show::Screen::new(command, json, ring::wall_clock().into());
    let asked = control::request(&config.control.socket, &target, |line| screen.line(line));
    match asked {
        Ok(()) => {
            screen.end();
            ExitCode::SUCCESS
        }
        Err(RequestError::NotRunning { path, cause }) => {
            if let Some(process) = lock::holder(&config.spool.directory) {
                eprintln!(
                    "ringpost: process {process} runs a relay on {}, but does not answer at {} \
                     ({cause}); use the control.socket with which it was started",
                    config.spool.directory.display(),
                    path.display()
                );
                return ExitCode::FAILURE;
            }
            stopped_queue(config, command, &mut screen)
        }
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The queue of a stopped relay, read from its spool.
fn stopped_queue(config: &Config, command: &QueueCommand, screen: &mut show::Screen) -> ExitCode {
    let root = &config.spool.directory;
    if !root.is_dir() {
        eprintln!(
            "ringpost: {}: no relay runs here, and the folder does not exist; name the spool with \
             --spool DIR, or the configuration with --config FILE",
            root.display()
        );
        return ExitCode::FAILURE;
    }
    if matches!(command, QueueCommand::Summary { .. }) {
        eprintln!(
            "ringpost: {}: no relay runs here; `ringpost spool stat` counts its spool",
            root.display()
        );
        return ExitCode::FAILURE;
    }
    if matches!(command, QueueCommand::Sites { .. }) {
        eprintln!("ringpost: {}: no relay runs here, so there are no sites", root.display());
        return ExitCode::FAILURE;
    }
    eprintln!("ringpost: {}: no relay runs here; this is the content of its spool", root.display());
    let folders = match shard::folders(config) {
        Ok(folders) => folders,
        Err(error) => {
            eprintln!("ringpost: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A wrong path must not look like an empty queue.
    if folders.is_empty() {
        eprintln!(
            "ringpost: {}: not a spool: it has no folder shard-N; name the spool with \
             --spool DIR, or the configuration with --config FILE",
            root.display()
        );
        return ExitCode::FAILURE;
    }
    let mut failed = false;
    let mut entries = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        match Spool::inspect(folder) {
            Ok(recovery) => {
                for what in &recovery.set_aside {
                    eprintln!("ringpost: corrupt record: {what}");
                }
                let expire = config.retry.expire;
                entries.extend(shard::entries_of_recovery(folder, recovery, number, expire));
            }
            Err(error) => {
                eprintln!("ringpost: {error}");
                failed = true;
            }
        }
    }
    let found = screen.select(entries, command);
    if let (false, QueueCommand::Show { id, .. }) = (found, command) {
        eprintln!("ringpost: {}", shard::absence(config, *id));
    }
    // A spool that could not be read is not empty.
    if found && !failed {
        screen.end();
    }
    if failed || !found { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// `1 message`, `2 messages`.
fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Percent-encodes characters that are not allowed in a URL's path or query.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
