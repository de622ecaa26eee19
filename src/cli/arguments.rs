//! The flags and commands, and the configuration keys that the flags set.
//!
//! The same flags are accepted before and after a command. One after it overrides one before it;
//! flags that may be repeated add up.

use crate::config::{Override, OverrideFlag};
use crate::message::QueueId;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Ringpost, a bulk mail relay: receives mail by SMTP, stores it safely on disk, and delivers it
/// at the rate that each receiving site accepts.
///
/// Without a command, it runs the relay.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringpost", version, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags before the command.
    #[command(flatten)]
    settings: Settings,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the relay until SIGTERM or SIGINT (the default command)
    Serve {
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Check the configuration and this machine, print all values, and exit: 0 if all is right, 1
    /// if a start on this machine would fail, 2 if the configuration is wrong
    Check {
        /// Also ask the name servers, look up this relay's own name and its PTR record, connect to
        /// the next hops, and print the successful checks, also the days left of certificates
        #[arg(long)]
        live: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Ask the running relay whether all its shards take mail: exit 0 if they do, 1 if not
    Health {
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Describe a configuration key, list all keys, or print the annotated file
    Config {
        /// What to show.
        #[command(subcommand)]
        command: ConfigCommand,
        /// The flags between `config` and its own command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Print the version
    Version,
    /// Show the queue of a running relay, or of a stopped one
    Queue {
        /// What to show.
        #[command(subcommand)]
        command: QueueCommand,
        /// The flags between `queue` and its own command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Verify, count, export or import the spool of a stopped relay
    Spool {
        /// What to do with it.
        #[command(subcommand)]
        command: SpoolCommand,
        /// The flags between `spool` and its own command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Change or show the users file (--users FILE): the users that may log in and send
    User {
        /// What to do with it.
        #[command(subcommand)]
        command: UserCommand,
        /// The flags between `user` and its own command.
        #[command(flatten)]
        settings: Settings,
    },
}

/// What to show of the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Describe a key, or every key of a table: meaning, value, default, type, range
    Show {
        /// The key with its table, such as retry.first, or a table, such as retry
        #[arg(value_name = "KEY")]
        key: String,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// List every key with its value, and its default where that differs
    List {
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Print a JSON Schema of the configuration file, for editors
    Schema,
    /// Print the annotated file: every key with its documentation, range and default
    Annotated,
}

/// What to do with the users file.
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user; the password is prompted for, or read as a line from standard input
    Add {
        /// The name to log in with
        #[arg(value_name = "NAME")]
        name: String,
        /// An address that the user may send from, or @DOMAIN for a whole domain; may be repeated;
        /// without it, the user may send from any address
        #[arg(long, value_name = "ADDRESS")]
        sender: Vec<String>,
        /// Set a new password for a user that exists already
        #[arg(long)]
        replace: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// List the users, with how each can log in and send
    List {
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove a user
    Remove {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Check a password, prompted for or read from standard input: exit 0 if it is right, 1 if not
    Verify {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
}

/// What to do with the spool of a stopped relay.
#[derive(Clone, Debug, Subcommand)]
pub enum SpoolCommand {
    /// Read everything and verify every checksum: exit 0 clean, 1 damaged, 2 not readable
    Verify {
        /// A copied spool, or one shard's folder, instead of the configured spool
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Count messages, recipients and bytes
    Stat {
        /// A copied spool, or one shard's folder, instead of the configured spool
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Write each waiting message to a file ID.eml, with its envelope in header fields at the top
    Export {
        /// A copied spool, or one shard's folder, instead of the configured spool
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Write the files to this folder
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// Only the message with this queue id
        #[arg(long, value_name = "ID", value_parser = queue_id)]
        id: Option<QueueId>,
        /// Only messages with a waiting recipient in this domain
        #[arg(long, value_name = "DOMAIN", value_parser = domain)]
        domain: Option<String>,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Import exported messages, or plain .eml files with --from and --to, into the spool
    Import {
        /// Files, or folders whose .eml files are imported
        #[arg(value_name = "FILE|FOLDER", required = true)]
        from_files: Vec<PathBuf>,
        /// Reverse-path of files without an envelope; <> for none
        #[arg(long, value_name = "ADDRESS", requires = "to")]
        from: Option<String>,
        /// Forward-path of files without an envelope; may be repeated
        #[arg(long, value_name = "ADDRESS", requires = "from")]
        to: Vec<String>,
        /// Give every message a new id: also imports messages that are or were in this spool
        #[arg(long)]
        new_ids: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
}

/// What to show of the queue.
#[derive(Clone, Debug, Subcommand)]
pub enum QueueCommand {
    /// List waiting recipients, with the number of those shown
    ///
    /// Without --sort, they are listed shard by shard, in no particular order.
    ///
    /// Columns: ID, the queue id; STATE, "waiting" for its next attempt, "routing" (its site is
    /// being looked up), "ready" (it waits for a connection), "out" (it is being delivered),
    /// "ending" (it is done, but its report or result is not on disk yet), "stored" (in the spool
    /// of a stopped relay) or "damaged" (its record is damaged on the disk); TRIES, attempts so
    /// far; AGE, time since the message was received; NEXT, time of the next attempt; FROM -> TO,
    /// sender and recipient. The second line says why it waits.
    List {
        /// Show at most this many messages; 0 shows all
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = limit)]
        limit: usize,
        /// Which recipients to show, and in which order.
        #[command(flatten)]
        filter: Filter,
        /// Print JSON, one waiting recipient a line
        #[arg(long)]
        json: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Count waiting recipients by domain and age, as qshape does, and by cause
    ///
    /// Columns: TOTAL, all recipients of the domain; 5, 10, 20 and so on, those that were received
    /// less than that many minutes ago; 1280+, older ones. A recipient also counts in one of 4XX,
    /// DNS and CONN by its last attempt: a host refused it with a reply (such as greylisting); no
    /// host was found; the connection failed or was lost. And in READY when it waits for a
    /// connection to its site, which may be in back-off (see `queue sites`), or in OUT when it is
    /// being delivered.
    Summary {
        /// Show at most this many domains; 0 shows all
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = limit)]
        limit: usize,
        /// Sort by this column
        #[arg(long, value_name = "COLUMN", value_enum, default_value_t)]
        sort: SummaryOrder,
        /// Print JSON, one domain a line
        #[arg(long)]
        json: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// Show one message: each waiting recipient, why it waits, since when and until when
    Show {
        /// The queue id, as in the 250 reply and in every event
        #[arg(value_name = "ID", value_parser = queue_id)]
        id: QueueId,
        /// Print JSON, one waiting recipient a line
        #[arg(long)]
        json: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
    /// List the sites with waiting mail: recipients, connections, back-off and its cause
    ///
    /// Columns: READY, recipients that wait for a connection to the site; OUT, recipients that are
    /// being delivered to it; CONNECTIONS, open and allowed, of all shards together; SITE, its
    /// name. The second line says until when the site is in back-off, and why. Recipients that wait
    /// for their next attempt belong to no site until then: see `queue summary`.
    Sites {
        /// Sort by this column
        #[arg(long, value_name = "COLUMN", value_enum, default_value_t)]
        sort: SiteOrder,
        /// Print JSON, one site a line
        #[arg(long)]
        json: bool,
        /// The flags after the command.
        #[command(flatten)]
        settings: Settings,
    },
}

/// Which recipients `queue list` shows, and in which order.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Show only messages with a waiting recipient in this domain
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    pub domain: Option<String>,
    /// Show only recipients of sites whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub site: Option<String>,
    /// Show only messages whose sender contains this text; <> is the empty sender
    #[arg(long, value_name = "TEXT")]
    pub from: Option<String>,
    /// Show only recipients in this state
    #[arg(long, value_name = "STATE", value_enum)]
    pub state: Option<State>,
    /// Show only messages that were received longer ago than this, such as 30m or 2d
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub older_than: Option<Duration>,
    /// Sort by this column; reads the whole queue
    #[arg(long, value_name = "COLUMN", value_enum)]
    pub sort: Option<ListOrder>,
}

impl Filter {
    /// Whether the relay itself can apply it: it can filter by domain only.
    pub fn is_plain(&self) -> bool {
        let Filter { site, from, state, older_than, sort, .. } = self;
        site.is_none()
            && from.is_none()
            && state.is_none()
            && older_than.is_none()
            && sort.is_none()
    }
}

/// The states of a recipient, as `queue list` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Waits for its next attempt (Postfix: deferred)
    #[value(alias = "deferred")]
    Waiting,
    /// Its site is being looked up
    Routing,
    /// Waits for a connection to its site
    Ready,
    /// Is being delivered (Postfix: active)
    #[value(alias = "active")]
    Out,
    /// Is done, but its report or result is not on disk yet
    Ending,
    /// In the spool of a stopped relay
    Stored,
    /// Its record on the disk is damaged
    Damaged,
}

impl State {
    /// As the relay writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Routing => "routing",
            State::Ready => "ready",
            State::Out => "out",
            State::Ending => "ending",
            State::Stored => "stored",
            State::Damaged => "damaged",
        }
    }
}

/// The order of `queue list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListOrder {
    /// Oldest first
    Age,
    /// Next attempt first
    Next,
    /// Most attempts first
    Tries,
    /// Largest first
    Size,
    /// By sender
    From,
    /// By the recipient's domain
    Domain,
}

/// The order of `queue sites`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SiteOrder {
    /// Most recipients ready first
    #[default]
    Ready,
    /// Most recipients in delivery first
    Out,
    /// Most connections first
    Connections,
    /// By name
    Site,
}

/// The order of `queue summary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SummaryOrder {
    /// Most recipients first
    #[default]
    Total,
    /// Oldest recipient first
    Age,
    /// By name
    Domain,
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a duration, such as 30m, 12h or 2d".into())
}

const SETTINGS: &str = "Configuration";

/// The flags for the configuration file and for values that override it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = SETTINGS)]
pub struct Settings {
    /// Read the configuration from FILE [default: the file that RINGPOST_CONFIG names, else
    /// /etc/ringpost/ringpost.toml if it exists, else the built-in defaults]
    #[arg(long, short = 'c', value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this address instead of the configured ones; may be repeated [key:
    /// listener.address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Keep the spool in DIR [key: spool.directory]
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
    /// Run N shards, each pinned to its own CPU (unless --set pin=false), or one on each CPU of
    /// LIST, such as 0,2 or 0-3 [key: cores]
    #[arg(long, value_name = "N|LIST")]
    cores: Option<String>,
    /// Send all mail that matches no routing rule to this host [key: route.smart_host]
    #[arg(long, value_name = "HOST:PORT")]
    smart_host: Option<String>,
    /// Offer TLS with this certificate, a PEM file [key: tls.cert]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The certificate's private key, a PEM file [key: tls.key]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// The file of the users that may log in [key: auth.users]
    #[arg(long, value_name = "FILE")]
    users: Option<String>,
    /// Set any key, such as retry.first=2s, or all tables of a `[[table]]`, such as
    /// 'access.limit=[{network = "192.0.2.0/24", messages_per_hour = 1000}]'; overrides the file
    /// and other flags; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_string(), value.trim().to_string()))
        }
        _ => Err("write KEY=VALUE, such as retry.first=2s".into()),
    }
}

fn queue_id(text: &str) -> Result<QueueId, String> {
    QueueId::parse(text).ok_or_else(|| "a queue id has 13 letters and digits".into())
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "write a number, or 0 for all".into())
}

fn domain(text: &str) -> Result<String, String> {
    match text.rsplit_once('@') {
        Some((_, domain)) => Err(format!("write only the domain: {domain}")),
        None if text.is_empty() => Err("write a domain, such as example.com".into()),
        None => Ok(text.to_owned()),
    }
}

/// Commands that do not run the relay hide the flags for that in their help. They accept them all
/// the same, so that the flags of `serve` can be used for every command.
fn without_serve_flags(command: clap::Command) -> clap::Command {
    let shown = ["config", "spool", "users", "set"];
    let hide = |flag: clap::Arg| {
        let of_serve =
            flag.get_help_heading() == Some(SETTINGS) && !shown.contains(&flag.get_id().as_str());
        if of_serve { flag.hide(true) } else { flag }
    };
    command.mut_args(hide).mut_subcommands(without_serve_flags)
}

/// The name of a configuration file that was written in place of a command.
fn file_for_a_command(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(text) if text.ends_with(".toml") || text.contains('/') => Some(text),
        _ => None,
    }
}

impl Arguments {
    /// Reads the command line; a mistake in it ends the program.
    pub fn read() -> Arguments {
        let all = ["serve", "check"];
        let command = Arguments::command().mut_subcommands(|command| {
            if all.contains(&command.get_name()) { command } else { without_serve_flags(command) }
        });
        let matches = command.try_get_matches().unwrap_or_else(|error| {
            if let Some(file) = file_for_a_command(&error) {
                eprintln!("ringpost: {file:?} is not a command; write --config {file}");
                std::process::exit(i32::from(super::EXIT_USAGE));
            }
            error.exit()
        });
        Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The flags from before and after the command, merged.
    pub fn settings(&self) -> Settings {
        let front = self.settings.clone();
        match &self.command {
            None => front,
            Some(
                Command::Serve { settings }
                | Command::Check { settings, .. }
                | Command::Health { settings },
            ) => front.and(settings.clone()),
            Some(Command::Version) => front,
            Some(Command::Config { command, settings: between }) => match command {
                ConfigCommand::Show { settings, .. } | ConfigCommand::List { settings } => {
                    front.and(between.clone()).and(settings.clone())
                }
                ConfigCommand::Schema | ConfigCommand::Annotated => front,
            },
            Some(Command::Queue { command, settings: between }) => match command {
                QueueCommand::List { settings, .. }
                | QueueCommand::Show { settings, .. }
                | QueueCommand::Summary { settings, .. }
                | QueueCommand::Sites { settings, .. } => {
                    front.and(between.clone()).and(settings.clone())
                }
            },
            Some(Command::Spool { command, settings: between }) => match command {
                SpoolCommand::Verify { settings, .. }
                | SpoolCommand::Stat { settings, .. }
                | SpoolCommand::Export { settings, .. }
                | SpoolCommand::Import { settings, .. } => {
                    front.and(between.clone()).and(settings.clone())
                }
            },
            Some(Command::User { command, settings: between }) => match command {
                UserCommand::Add { settings, .. }
                | UserCommand::List { settings }
                | UserCommand::Remove { settings, .. }
                | UserCommand::Verify { settings, .. } => {
                    front.and(between.clone()).and(settings.clone())
                }
            },
        }
    }
}

impl Settings {
    /// The file to read, if one is named.
    pub fn config(&self) -> Option<&std::path::Path> {
        self.config.as_deref()
    }

    /// The values that override the file, for [`crate::config::Config::load`].
    pub fn overrides(&self) -> Vec<Override> {
        let listen = (!self.listen.is_empty()).then(|| self.listen.join(","));
        let dedicated = [
            ("--listen", "listener", listen),
            ("--spool", "spool.directory", self.spool.clone()),
            ("--cores", "cores", self.cores.clone()),
            ("--smart-host", "route.smart_host", self.smart_host.clone()),
            ("--tls-cert", "tls.cert", self.tls_cert.clone()),
            ("--tls-key", "tls.key", self.tls_key.clone()),
            ("--users", "auth.users", self.users.clone()),
        ];
        let dedicated = dedicated.into_iter().filter_map(|(flag, key, value)| {
            Some(Override {
                flag: OverrideFlag::Dedicated(flag),
                key: key.to_string(),
                value: value?,
            })
        });
        let set = self.set.iter().map(|(key, value)| Override {
            flag: OverrideFlag::Set,
            key: key.clone(),
            value: value.clone(),
        });
        dedicated.chain(set).collect()
    }

    fn and(mut self, after: Settings) -> Settings {
        self.listen.extend(after.listen);
        self.set.extend(after.set);
        Settings {
            config: after.config.or(self.config),
            spool: after.spool.or(self.spool),
            cores: after.cores.or(self.cores),
            smart_host: after.smart_host.or(self.smart_host),
            tls_cert: after.tls_cert.or(self.tls_cert),
            tls_key: after.tls_key.or(self.tls_key),
            users: after.users.or(self.users),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split_whitespace()).unwrap()
    }

    fn keys_and_values(line: &str) -> Vec<(String, String)> {
        let overrides = parse(line).settings().overrides();
        overrides.into_iter().map(|over| (over.key, over.value)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_arguments_the_relay_runs_with_the_defaults() {
        let alone = parse("ringpost");
        assert!(alone.command.is_none());
        assert_eq!(alone.settings(), Settings::default());
        assert!(alone.settings().overrides().is_empty());
    }

    #[test]
    fn flags_work_before_and_after_the_command() {
        let expected = pairs(&[("spool.directory", "/q"), ("cores", "2"), ("a.b", "1")]);
        for line in [
            "ringpost --spool /q --cores 2 --set a.b=1 serve",
            "ringpost serve --spool /q --cores 2 --set a.b=1",
            "ringpost --cores 2 check --spool /q --set a.b=1",
            "ringpost queue --spool /q --set a.b=1 list --cores 2",
            "ringpost --set a.b=1 queue list --spool /q --cores 2",
            "ringpost --spool /q --cores 2 --set a.b=1",
            "ringpost --spool /elsewhere queue sites --cores 2 --spool /q --set a.b=1",
        ] {
            assert_eq!(keys_and_values(line), expected, "{line}");
        }
    }

    #[test]
    fn repeated_flags_before_and_after_the_command_add_up() {
        let line = "ringpost --listen 127.0.0.1:1 --set a=1 serve --listen [::1]:2 --set b=x=y \
                    --smart-host h:25 --listen 127.0.0.1:3";
        let expected = pairs(&[
            ("listener", "127.0.0.1:1,[::1]:2,127.0.0.1:3"),
            ("route.smart_host", "h:25"),
            ("a", "1"),
            ("b", "x=y"),
        ]);
        assert_eq!(keys_and_values(line), expected);
    }

    #[test]
    fn the_last_named_file_is_used() {
        assert_eq!(
            parse("ringpost -c a check --config b").settings().config(),
            Some(std::path::Path::new("b"))
        );
    }

    #[test]
    fn queue_commands_take_their_own_flags() {
        let list = parse("ringpost queue list --limit 5 --domain example.com --json");
        let Some(Command::Queue {
            command: QueueCommand::List { limit, filter, json, .. }, ..
        }) = list.command
        else {
            panic!("not queue list")
        };
        assert_eq!((limit, filter.domain.as_deref(), json), (5, Some("example.com"), true));
        let show = parse("ringpost queue show 06j8pa3qz4s0w");
        let Some(Command::Queue { command: QueueCommand::Show { id, json, .. }, .. }) =
            show.command
        else {
            panic!("not queue show")
        };
        assert_eq!((id.to_string().as_str(), json), ("06J8PA3QZ4S0W", false));
    }

    #[test]
    fn spool_commands_take_their_own_flags() {
        let line = "ringpost spool import --spool /q a.eml b --from <> --to c@d.test --to e@f.test";
        assert_eq!(keys_and_values(line), pairs(&[("spool.directory", "/q")]));
        let Some(Command::Spool {
            command: SpoolCommand::Import { from_files, from, to, new_ids, .. },
            ..
        }) = parse(line).command
        else {
            panic!("not spool import")
        };
        assert_eq!(
            (from_files.len(), from.as_deref(), to.len(), new_ids),
            (2, Some("<>"), 2, false)
        );
        let verify = parse("ringpost spool verify /copy").command;
        let Some(Command::Spool { command: SpoolCommand::Verify { directory, .. }, .. }) = verify
        else {
            panic!("not spool verify")
        };
        assert_eq!(directory, Some("/copy".into()));
    }

    #[test]
    fn user_commands_take_their_own_flags() {
        let line = "ringpost user add --users /u joe --sender @a.test --sender b@c.test";
        assert_eq!(keys_and_values(line), pairs(&[("auth.users", "/u")]));
        let Some(Command::User { command: UserCommand::Add { name, sender, replace, .. }, .. }) =
            parse(line).command
        else {
            panic!("not user add")
        };
        assert_eq!((name.as_str(), sender.len(), replace), ("joe", 2, false));
        let line = "ringpost user --users /u list";
        assert_eq!(keys_and_values(line), pairs(&[("auth.users", "/u")]));
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "ringpost queue",
            "ringpost queue show",
            "ringpost queue show 06J8",
            "ringpost queue list --domain a@b.test",
            "ringpost queue list --limit all",
            "ringpost spool export --to x --id 06EXAMPLE0000",
            "ringpost spool",
            "ringpost user",
            "ringpost user add",
            "ringpost spool export",
            "ringpost spool import",
            "ringpost spool import --from a@b.test x.eml",
            "ringpost --set retry.first",
            "ringpost --set =1",
            "ringpost serve extra",
            "ringpost --nonsense",
        ] {
            assert!(Arguments::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_command_leads_to_the_flag_for_it() {
        let of = |line: &str| {
            let error = Arguments::try_parse_from(line.split_whitespace()).unwrap_err();
            file_for_a_command(&error).map(str::to_owned)
        };
        assert_eq!(of("ringpost op.toml").as_deref(), Some("op.toml"));
        assert_eq!(of("ringpost /etc/ringpost/x").as_deref(), Some("/etc/ringpost/x"));
        assert_eq!(of("ringpost chekc"), None);
        assert_eq!(of("ringpost --nonsense"), None);
    }
}
