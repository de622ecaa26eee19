//! The resource usage of a process and its children, from /proc.
//!
//! CPU time is that of all threads, and of children whether they still run or were waited for.

use std::collections::HashMap;
use std::fs;

use serde::Serialize;

/// Clock ticks per second in /proc/PID/stat: 100 on every supported Linux, independent of the
/// kernel's timer.
const TICKS_PER_SECOND: f64 = 100.0;
/// Largest number of processes that are examined: more than any kernel allows by default.
const PROCESSES_MAX: usize = 4_194_304;

/// The usage so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// User and system time in seconds.
    pub cpu_seconds: f64,
    /// Largest resident memory in bytes: the sum over the processes that still run.
    pub peak_rss_bytes: u64,
}

/// Reads the usage of `pid` and all its descendants.
///
/// # Errors
/// There is no such process.
pub fn usage(pid: u32) -> Result<Usage, String> {
    let stat = stats().remove(&pid).ok_or_else(|| format!("no process {pid}"))?;
    let all = stats();
    let mut usage = Usage::default();
    let mut queue = vec![(pid, stat)];
    let mut seen = 0;
    while let Some((pid, stat)) = queue.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            break;
        }
        usage.cpu_seconds += stat.ticks as f64 / TICKS_PER_SECOND;
        usage.peak_rss_bytes += peak_rss_bytes(pid);
        queue.extend(all.iter().filter(|(_, s)| s.parent == pid).map(|(p, s)| (*p, *s)));
    }
    Ok(usage)
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: u32,
    /// utime, stime, cutime and cstime together.
    ticks: u64,
}

fn stats() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, stat(pid)?))).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, with any characters: count from its end.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // proc(5): parent is field 4, utime to cstime are 14 to 17; the first one here is field 3.
    let parent = fields.get(1)?.parse().ok()?;
    let times = fields.get(11..15)?;
    Some(Stat { parent, ticks: times.iter().filter_map(|t| t.parse::<u64>().ok()).sum() })
}

fn peak_rss_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.trim().strip_suffix(" kB")).and_then(|n| n.parse().ok());
    kilobytes.unwrap_or(0_u64).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_very_process_has_used_memory() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.peak_rss_bytes > 100_000);
        assert!(own.cpu_seconds >= 0.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        assert!(usage(u32::MAX).unwrap_err().contains("no process"));
    }
}
