//! Which diagnostics are logged: `RINGPOST_LOG`.
//!
//! A level alone (`debug`) is for the relay's own modules; libraries stay at info, or off if they
//! repeat what the relay logs itself. `ringpost::pool=trace,hyper=debug` names modules; others stay
//! at their default. A part that is not valid is reported, and the rest is used.

use crate::ring;
use tracing_subscriber::EnvFilter;

/// Libraries that log for each handshake what the relay logs itself, or log what was sent.
const SILENT: &str = "rustls=off,ureq=off,ureq_proto=off";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The first part of the module paths of everything that logs in this program.
const CRATES: [&str; 8] =
    ["ringpost", ring::DRIVER, "rustls", "ureq", "hyper", "axum", "tokio", "hickory_proto"];

/// The filter for the text `wished`, and errors for the parts of it that are not valid.
pub(super) fn filter(wished: &str) -> (EnvFilter, Vec<String>) {
    let (text, faults) = directives(wished);
    (EnvFilter::new(text), faults)
}

fn directives(wished: &str) -> (String, Vec<String>) {
    let mut directives = format!("info,{SILENT}");
    let mut faults = Vec::new();
    for part in wished.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match read(part) {
            Ok(directive) => directives.push_str(&format!(",{directive}")),
            Err(fault) => faults.push(fault),
        }
    }
    (directives, faults)
}

fn read(part: &str) -> Result<String, String> {
    let known = |level: &str| LEVELS.contains(&level.to_ascii_lowercase().as_str());
    match part.split_once('=') {
        None if known(part) => Ok(format!("ringpost={}", part.to_ascii_lowercase())),
        None if is_module(part) => Ok(format!("{part}=trace")),
        None => Err(format!("{part:?} is not a level; write {}", LEVELS.join(", "))),
        Some((module, level)) if is_module(module) && known(level) => {
            Ok(format!("{module}={}", level.to_ascii_lowercase()))
        }
        Some((module, level)) if is_module(module) => {
            Err(format!("{level:?} in {part:?} is not a level; write {}", LEVELS.join(", ")))
        }
        Some((module, _)) => {
            Err(format!("{module:?} is not a module; write one such as ringpost::pool=debug"))
        }
    }
}

fn is_module(path: &str) -> bool {
    let first = path.split("::").next().unwrap_or(path);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    CRATES.contains(&first) && path.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_for_the_relay_and_not_for_the_driver() {
        let base = format!("info,{SILENT}");
        assert_eq!(directives(""), (base.clone(), vec![]));
        assert_eq!(directives("debug"), (format!("{base},ringpost=debug"), vec![]));
        assert_eq!(directives("WARN"), (format!("{base},ringpost=warn"), vec![]));
        let two = "ringpost::pool=trace, hyper=debug";
        let expected = format!("{base},ringpost::pool=trace,hyper=debug");
        assert_eq!(directives(two), (expected, vec![]));
    }

    #[test]
    fn a_typo_is_reported_and_never_turns_logging_off() {
        let base = format!("info,{SILENT}");
        for (typo, fault) in [
            ("debgu", "\"debgu\" is not a level; write off, error, warn, info, debug, trace"),
            (
                "rnigpost=debug",
                "\"rnigpost\" is not a module; write one such as ringpost::pool=debug",
            ),
            (
                "ringpost=loud",
                "\"loud\" in \"ringpost=loud\" is not a level; write off, error, warn, info, \
                 debug, trace",
            ),
        ] {
            assert_eq!(directives(typo), (base.clone(), vec![fault.to_owned()]), "{typo}");
        }
    }
}
