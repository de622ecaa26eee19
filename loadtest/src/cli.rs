//! The command line, with units, defaults and ranges.
//!
//! It checks each value separately; it does not know how the load is generated.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::loopback;
use crate::misbehave::{self, Delay, Rule};

/// Loads a mail relay on this machine, and counts exactly what is accepted, delivered and lost.
#[derive(Debug, Parser)]
#[command(name = "ringpost-load", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send messages to a relay
    Source(SourceAlone),
    /// Receive messages from a relay, well or badly behaved
    Sink(SinkAlone),
    /// Source and sink in one process with the relay between: reports lost and doubled messages
    Run(Box<Run>),
    /// Compare what was accepted with what arrived
    Count(Count),
}

/// `source`.
#[derive(Debug, Args)]
pub struct SourceAlone {
    /// The relay: a loopback address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback::parse)]
    pub to: SocketAddr,
    #[command(flatten)]
    pub load: Load,
}

/// What the source sends.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Largest number of messages to try
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
    )]
    pub messages: u64,
    /// Sessions at the same time, over all threads
    #[arg(
        long,
        value_name = "S",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=20_000)
    )]
    pub sessions: u32,
    /// Threads of the source
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub threads: u32,
    /// Content of a message in bytes, including its header
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 2048,
        value_parser = clap::value_parser!(u32).range(600..=67_108_864)
    )]
    pub size: u32,
    /// Recipients of each message
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub recipients: u32,
    /// Messages begun per second, over all sessions [default: as fast as they are accepted]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// Envelope sender
    #[arg(long, value_name = "ADDRESS", default_value = "a@sender.test", value_parser = sender)]
    pub from: String,
    /// Put the message id into the envelope sender: a+ID@sender.test
    #[arg(long)]
    pub verp: bool,
    /// Domain of the recipients; with several they are spread evenly
    #[arg(
        long = "domain",
        value_name = "DOMAIN",
        default_value = "sink.test",
        value_parser = domain
    )]
    pub domains: Vec<String>,
    /// Send MAIL, RCPT and DATA in one go if the relay offers PIPELINING (the default)
    #[arg(long, overrides_with = "no_pipeline")]
    pub pipeline: bool,
    /// Wait for the reply to each command
    #[arg(long)]
    pub no_pipeline: bool,
    /// Messages in one session; then QUIT and a new one
    #[arg(
        long,
        value_name = "M",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub messages_per_session: u32,
    /// No message is started after this; started ones have 5 more seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub time: Duration,
    /// Retry when a connection is refused or breaks, until the time is over
    #[arg(long)]
    pub retry_connect: bool,
    /// Append each accepted id and its number of recipients to this file
    #[arg(id = "accepted-ledger", long = "ledger", value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Eight hexadecimal digits that name the run [default: random]
    #[arg(long, value_name = "HEX", value_parser = run_name)]
    pub run: Option<u32>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

/// `sink`.
#[derive(Debug, Args)]
pub struct SinkAlone {
    /// The address to listen on: a loopback address and port; port 0 lets the kernel choose
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:2526",
        value_parser = loopback::parse
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub behaviour: Behaviour,
    /// Append each arrival to this file before it is answered with 250
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// End when this many distinct (message, recipient) pairs have arrived; a message from another
    /// program counts as one
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// End after this
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub time: Duration,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

/// How the sink treats the relay.
#[derive(Clone, Debug, Default, Args)]
pub struct Behaviour {
    /// Threads of the sink
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub sink_threads: u32,
    /// Do not offer CHUNKING
    #[arg(long)]
    pub no_chunking: bool,
    /// Simulate network latency: delay the replies to commands that arrive together
    #[arg(
        long,
        value_name = "MILLISECONDS",
        default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=10_000)
    )]
    pub round_trip: u64,
    /// Answer 5xx, by default 550, at STEP=PERCENT; STEP is connect, greeting, ehlo, mail, rcpt,
    /// data, content or end
    #[arg(long, value_name = "STEP=PERCENT[:CODE]", value_parser = misbehave::parse_refuse)]
    pub refuse: Vec<Rule>,
    /// Answer 4xx; 421 also closes
    #[arg(long, value_name = "STEP=PERCENT[:CODE]", value_parser = misbehave::parse_defer)]
    pub defer: Vec<Rule>,
    /// Close the connection instead of answering
    #[arg(long, value_name = "STEP=PERCENT", value_parser = misbehave::parse_hang_up)]
    pub hangup: Vec<Rule>,
    /// Wait before answering
    #[arg(long, value_name = "STEP=MILLISECONDS", value_parser = misbehave::parse_delay)]
    pub delay: Vec<Delay>,
    /// Answer every RCPT with 450 while this file exists
    #[arg(long, value_name = "FILE")]
    pub defer_until_file: Option<PathBuf>,
    /// Seed of the misbehaviour
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The relay: a loopback address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback::parse)]
    pub relay: SocketAddr,
    /// The address of the sink: the relay must send everything here
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:2526",
        value_parser = loopback::parse
    )]
    pub sink: SocketAddr,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub behaviour: Behaviour,
    /// Wait this long for all messages to arrive after the last one was accepted
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub drain: Duration,
    /// Process id of the relay: its CPU time and memory are reported
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Append each arrival to this file
    #[arg(long, value_name = "FILE")]
    pub arrived_ledger: Option<PathBuf>,
}

/// `count`.
#[derive(Debug, Args)]
pub struct Count {
    /// The ledger of `source --ledger`
    #[arg(long, value_name = "LEDGER")]
    pub accepted: PathBuf,
    /// The ledger of `sink --ledger`
    #[arg(long, value_name = "LEDGER")]
    pub arrived: PathBuf,
    /// Print up to this many of the lost ids
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub show: usize,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    if !(0.1..=86_400.0).contains(&value) {
        return Err(String::from("must be 0.1 to 86400 seconds"));
    }
    Ok(Duration::from_secs_f64(value))
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("'{text}' is not a rate per second"))?;
    if !(0.01..=10_000_000.0).contains(&value) {
        return Err(String::from("must be 0.01 to 10000000 per second"));
    }
    Ok(value)
}

fn run_name(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 16) {
        Ok(run) if text.len() == 8 => Ok(run),
        _ => Err(String::from("must be eight hexadecimal digits")),
    }
}

fn domain(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if text.is_empty() || text.len() > 200 || !text.bytes().all(fits) {
        return Err(String::from("must be a domain name of at most 200 letters, digits, '-', '.'"));
    }
    Ok(text.to_owned())
}

fn sender(text: &str) -> Result<String, String> {
    let (local, host) = text.rsplit_once('@').ok_or("must be local@domain")?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._+=".contains(&b);
    // 34 bytes are reserved for the id that --verp adds (RFC 5321 4.5.3.1.1: 64 in total).
    if local.is_empty() || local.len() > 30 || !local.bytes().all(fits) {
        return Err(String::from("the local part must be 1 to 30 letters, digits or -._+="));
    }
    domain(host)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn refused(line: &str) -> String {
        Cli::try_parse_from(line.split(' ')).unwrap_err().to_string()
    }

    #[test]
    fn bad_input_is_named() {
        assert!(refused("x source --to 192.0.2.1:25").contains("not a loopback address"));
        assert!(refused("x source --to mail.example.com:25").contains("not a loopback address"));
        assert!(refused("x sink --listen 0.0.0.0:25").contains("not a loopback address"));
        assert!(refused("x source --to 127.0.0.1:25 --size 10").contains("600"));
        assert!(refused("x source --to 127.0.0.1:25 --from joe").contains("local@domain"));
        assert!(refused("x source --to 127.0.0.1:25 --rate 0").contains("0.01"));
        assert!(refused("x sink --refuse rcpt=200").contains("0 to 100"));
        assert!(refused("x sink --refuse rcpt=2:450").contains("500 to 599"));
        assert!(refused("x sink --defer lunch=2").contains("connect, greeting"));
        assert!(refused("x sink --hangup rcpt=2:500").contains("no code"));
    }
}
