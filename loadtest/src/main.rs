//! The load generator of Ringpost: a source, a sink, and an exact count between them.
//!
//! It is independent of the relay: it shares no code with it, and has its own SMTP. Each message
//! has an id and a digest, and each recipient address has the id of its message, so that accepted
//! and arrived messages can be compared one by one. It connects to this machine only.
//!
//! ```text
//!     source -> (relay under test) -> sink
//!       | accepted ids                 | arrived (id, recipient) pairs
//!       +------------> count <---------+      lost, doubled, corrupted
//! ```

mod cli;
mod content;
mod count;
mod id;
mod ledger;
mod loopback;
mod misbehave;
mod process;
mod progress;
mod run;
mod sink;
mod source;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// No message was lost or corrupted, or none was compared.
const EXIT_GOOD: u8 = 0;
/// An accepted message was lost, or one arrived corrupted.
const EXIT_LOST: u8 = 1;
/// The load could not be generated as requested.
const EXIT_TROUBLE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Source(options) => source_alone(options),
        cli::Command::Sink(options) => sink_alone(options),
        cli::Command::Run(options) => run::run(*options),
        cli::Command::Count(options) => count::count(&options),
    };
    match outcome {
        Ok(true) => EXIT_GOOD.into(),
        Ok(false) => EXIT_LOST.into(),
        Err(trouble) => {
            eprintln!("ringpost-load: {trouble}");
            EXIT_TROUBLE.into()
        }
    }
}

fn source_alone(options: cli::SourceAlone) -> Result<bool, String> {
    let mut source = source::start(options.to, &options.load)?;
    let quiet = options.load.quiet;
    progress::runtime()?.block_on(async {
        let tally = source.tally.clone();
        let mut bar = progress::Progress::new(quiet, options.load.messages);
        let mut signals = progress::Signals::listen()?;
        loop {
            tokio::select! {
                () = source.ended() => break,
                () = signals.stop() => break,
                () = bar.tick() => bar.show(tally.accepted(), &tally.line()),
            }
        }
        bar.clear();
        Ok::<(), String>(())
    })?;
    let report = source.finish()?;
    print_report(options.load.json, &report, &report.text())?;
    // A source that never got a connection has generated no load: that is an error, not a result.
    if report.accepted == 0 && report.attempted == 0 {
        return Err(format!("no session could be opened to {}", options.to));
    }
    Ok(true)
}

fn sink_alone(options: cli::SinkAlone) -> Result<bool, String> {
    let sink = sink::start(options.listen, &options.behaviour, options.ledger.as_deref())?;
    eprintln!("sink: listening on {}", sink.address);
    let wanted = options.messages;
    progress::runtime()?.block_on(async {
        let mut bar = progress::Progress::new(options.quiet, wanted.unwrap_or(0));
        let mut signals = progress::Signals::listen()?;
        let end = tokio::time::Instant::now() + options.time;
        loop {
            tokio::select! {
                () = signals.stop() => break,
                () = tokio::time::sleep_until(end) => break,
                () = sink.reached(wanted.unwrap_or(u64::MAX)) => break,
                () = bar.tick() => bar.show(sink.arrivals.arrived(), &sink.arrivals.line()),
            }
        }
        bar.clear();
        Ok::<(), String>(())
    })?;
    let report = sink.stop()?;
    print_report(options.json, &report, &report.text())?;
    Ok(report.corrupted == 0)
}

/// Prints the result on standard output: one JSON object, or text.
fn print_report(json: bool, report: &impl serde::Serialize, text: &str) -> Result<(), String> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = if json {
        let object = serde_json::to_string(report).map_err(|e| e.to_string())?;
        writeln!(out, "{object}")
    } else {
        write!(out, "{text}")
    };
    written.map_err(|e| format!("standard output: {e}"))
}
