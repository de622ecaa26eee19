//! `cores`, `pin`, `[core_default]` and `[[core]]`: the shards and the settings of each.

use super::declare::{Entries, Setting, Shape, Shown, ValueShape, table};
use super::kinds::{GIB, MIB, count, needed, noted, optional, path, quoted, size};
use super::source::{Node, Value};
use super::table::Table;
use super::unit;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The settings of one shard: `[core_default]`, overridden by its `[[core]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Core {
    /// The CPU that the shard is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// The shard's spool directory: by default `shard-N` below `spool.directory`.
    pub spool: PathBuf,
    /// Largest number of inbound connections at once.
    pub connections_max: usize,
    /// Largest amount of accepted content that is kept in memory for a first attempt, in bytes.
    pub hot_bytes_max: usize,
    /// Largest amount of incoming content that is kept in memory, in bytes; beyond it, content is
    /// written to disk as it arrives.
    pub content_bytes_max: usize,
    /// Recipients that may wait in the queue, approximately; beyond it, new mail is refused.
    pub queue_recipients_max: usize,
}

/// A queue id has ten bits for the number of the shard.
pub(super) const SHARDS_MAX: usize = 1024;

table! {
    /// The settings of each shard, unless its own [[core]] overrides them.
    pub(super) struct CoreDefault {
        /// Inbound connections of a shard at once. Beyond it, a client gets 421 and is
        /// disconnected, so that it can try another host instead of waiting.
        connections_max: usize = count(4096, 1..=100_000);
        /// Bytes of accepted content that a shard keeps in memory for the first attempt. Beyond it,
        /// content is read back from disk for the attempt; no mail is refused.
        hot_bytes_max: usize = size(64 * MIB, 0..=64 * GIB);
        /// Bytes of incoming content that a shard keeps in memory, for all sessions together.
        /// Beyond it, content goes to disk as it arrives, and sessions read at the speed of the
        /// disk.
        content_bytes_max: usize = size(64 * MIB, MIB..=64 * GIB);
        /// Recipients that may wait in a shard's queue. Each takes 40 to 90 bytes of memory. Beyond
        /// it, new mail is refused with 452 4.3.1 while deliveries continue.
        queue_recipients_max: usize = count(10_000_000, 1..=250_000_000);
    }
}

table! {
    /// Settings of one shard, named by its CPU. A spool on a separate disk makes syncs cheaper.
    pub(super) struct CoreKeys {
        /// The CPU of the shard.
        cpu: usize = needed(count(0, 0..=8191));
        /// The shard's spool.
        spool: Option<PathBuf> =
            noted("the directory shard-N in spool.directory", optional(path("/disk1/spool")));
        /// As core_default.connections_max.
        connections_max: Option<usize> =
            noted("core_default.connections_max", optional(count(8192, 1..=100_000)));
        /// As core_default.hot_bytes_max.
        hot_bytes_max: Option<usize> =
            noted("core_default.hot_bytes_max", optional(size(256 * MIB, 0..=64 * GIB)));
        /// As core_default.content_bytes_max.
        content_bytes_max: Option<usize> =
            noted("core_default.content_bytes_max", optional(size(256 * MIB, MIB..=64 * GIB)));
        /// As core_default.queue_recipients_max.
        queue_recipients_max: Option<usize> = noted(
            "core_default.queue_recipients_max",
            optional(count(50_000_000, 1..=250_000_000)),
        );
    }
}

/// What `cores` asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cores {
    /// One shard for each CPU that the process may use.
    All,
    /// This many shards.
    Count(usize),
    /// One shard on each of these CPUs.
    Cpus(Vec<usize>),
}

/// The value of `cores`.
pub(super) struct CoresSetting;

impl Setting<Cores> for CoresSetting {
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Cores {
        let Some(node) = table.take(key) else { return Cores::All };
        read_cores(&node).unwrap_or_else(|what| {
            table.fault(&node.place, key, what);
            Cores::All
        })
    }

    fn show(&self, value: &Cores, key: &'static str, into: &mut Entries) {
        let shown = match value {
            Cores::All => quoted("all"),
            Cores::Count(count) => count.to_string(),
            Cores::Cpus(cpus) => format!("{cpus:?}"),
        };
        into.push((key, Shown::Value(shown)));
    }

    fn shape(&self) -> Shape {
        Shape::Value(ValueShape {
            type_name: "\"all\", number, or list of CPU numbers",
            range: None,
            choices: Vec::new(),
            default: Some(quoted("all")),
            default_note: None,
            example: None,
            needed: false,
            schema: json!({"type": ["string", "integer", "array"], "items": {"type": "integer"}}),
        })
    }
}

fn read_cores(node: &Node) -> Result<Cores, unit::Fault> {
    let fault = || {
        format!(
            "must be \"all\", a number of shards, or a list of CPU numbers such as [0, 1], not {}",
            node.value.shown()
        )
    };
    match &node.value {
        Value::Text(text) if text == "all" => Ok(Cores::All),
        Value::Text(text) => match text.trim().parse() {
            Ok(count) => Ok(Cores::Count(count)),
            Err(_) => unit::read_cpu_list(text)
                .map(Cores::Cpus)
                .map_err(|what| if text.contains(['-', ',']) { what } else { fault() }),
        },
        Value::Integer(count) => usize::try_from(*count).map(Cores::Count).map_err(|_| fault()),
        Value::List(items) => {
            let cpu = |item: &Node| match item.value {
                Value::Integer(cpu) if cpu >= 0 => usize::try_from(cpu).ok(),
                _ => None,
            };
            let cpu = |item: &Node| {
                cpu(item).ok_or_else(|| {
                    let item = item.value.shown();
                    format!("a list of CPU numbers, such as [0, 1], cannot contain {item}")
                })
            };
            items.iter().map(cpu).collect::<Result<_, _>>().map(Cores::Cpus)
        }
        _ => Err(fault()),
    }
}

/// The keys about shards, as they were read.
pub(super) struct Written<'a> {
    pub cores: &'a Cores,
    pub pin: bool,
    pub default: &'a CoreDefault,
    pub own: &'a [CoreKeys],
    pub directory: &'a Path,
}

/// The shards, in shard order. Faults are reported to `file`.
pub(super) fn shards(written: &Written<'_>, file: &Table<'_>) -> Vec<Core> {
    let default = written.default;
    let cpus = cpus(written, file);
    let mut cores: Vec<Core> = cpus
        .into_iter()
        .enumerate()
        .map(|(number, cpu)| Core {
            cpu,
            spool: written.directory.join(format!("shard-{number}")),
            connections_max: default.connections_max,
            hot_bytes_max: default.hot_bytes_max,
            content_bytes_max: default.content_bytes_max,
            queue_recipients_max: default.queue_recipients_max,
        })
        .collect();
    let mut named = BTreeSet::new();
    // A CPU that could not be read is reported already; its default is not a real CPU.
    let readable = !file.report().is_wrong("core.cpu");
    for (number, own) in written.own.iter().enumerate().filter(|_| readable) {
        match find(own.cpu, &mut cores, &mut named, written.pin) {
            Ok(core) => apply_own(own, core),
            Err(what) => file.report().unfit("core.cpu", number, what),
        }
    }
    let mut spools = BTreeSet::new();
    if let Some(core) = cores.iter().find(|core| !spools.insert(&core.spool)) {
        let what = format!("two shards have the same spool: {:?}", core.spool);
        file.report().relation(["spool.directory", "core.spool"], what);
    }
    cores
}

/// The CPU of each shard, in shard order; after a fault, one shard for each usable CPU.
fn cpus(written: &Written<'_>, file: &Table<'_>) -> Vec<Option<usize>> {
    let (usable, pin) = (&*file.report().machine.cpus, written.pin);
    let on = |cpus: &[usize]| cpus.iter().map(|cpu| pin.then_some(*cpu)).collect::<Vec<_>>();
    let all = || on(usable.get(..SHARDS_MAX).unwrap_or(usable));
    let found = match written.cores {
        Cores::All => Ok(all()),
        Cores::Count(0) => Err("at least one shard is needed".into()),
        Cores::Count(count) if pin => first_cpus(*count, usable).map(on),
        Cores::Count(count) if *count > SHARDS_MAX => {
            Err(format!("{count} shards are too many: at most {SHARDS_MAX}"))
        }
        Cores::Count(count) => Ok(vec![None; *count]),
        Cores::Cpus(_) if !pin => {
            Err("names CPUs, but pin = false pins to none; give a number of shards".into())
        }
        Cores::Cpus(cpus) => check_cpus(cpus, usable).map(|()| on(cpus)),
    };
    found.unwrap_or_else(|what: unit::Fault| {
        file.fault(&file.place_of("cores"), "cores", what);
        all()
    })
}

fn first_cpus(count: usize, usable: &[usize]) -> Result<&[usize], unit::Fault> {
    let most = usable.len().min(SHARDS_MAX);
    usable.get(..count).filter(|_| count <= SHARDS_MAX).ok_or_else(|| {
        format!(
            "{count} shards are too many: at most {most} here, one for each CPU (or any number \
             with pin = false)"
        )
    })
}

fn check_cpus(cpus: &[usize], usable: &[usize]) -> Result<(), unit::Fault> {
    if cpus.is_empty() {
        return Err("at least one shard is needed".into());
    }
    if cpus.len() > SHARDS_MAX {
        return Err(format!("at most {SHARDS_MAX} shards"));
    }
    let mut named = BTreeSet::new();
    for cpu in cpus {
        if !usable.contains(cpu) {
            let usable = unit::show_cpu_list(usable);
            return Err(format!("CPU {cpu} may not be used here; usable: {usable}"));
        }
        if !named.insert(*cpu) {
            return Err(format!("CPU {cpu} is named twice"));
        }
    }
    Ok(())
}

fn apply_own(own: &CoreKeys, core: &mut Core) {
    if let Some(spool) = &own.spool {
        core.spool.clone_from(spool);
    }
    core.connections_max = own.connections_max.unwrap_or(core.connections_max);
    core.hot_bytes_max = own.hot_bytes_max.unwrap_or(core.hot_bytes_max);
    core.content_bytes_max = own.content_bytes_max.unwrap_or(core.content_bytes_max);
    core.queue_recipients_max = own.queue_recipients_max.unwrap_or(core.queue_recipients_max);
}

/// The shard of the `[[core]]` with this CPU, or what is wrong.
fn find<'a>(
    number: usize,
    cores: &'a mut [Core],
    named: &mut BTreeSet<usize>,
    pin: bool,
) -> Result<&'a mut Core, unit::Fault> {
    if !pin {
        return Err("pin = false pins to no CPU; leave [[core]] out".into());
    }
    if !named.insert(number) {
        return Err(format!("CPU {number} has a [[core]] above"));
    }
    let chosen: Vec<usize> = cores.iter().filter_map(|core| core.cpu).collect();
    cores.iter_mut().find(|core| core.cpu == Some(number)).ok_or_else(|| {
        format!("CPU {number} runs no shard; shards: {}", unit::show_cpu_list(&chosen))
    })
}

/// The keys about shards that give `cores`.
pub(super) fn keys_of(cores: &[Core]) -> (Cores, Vec<CoreKeys>) {
    let cpus: Vec<usize> = cores.iter().filter_map(|core| core.cpu).collect();
    if cpus.len() < cores.len() {
        return (Cores::Count(cores.len()), Vec::new());
    }
    let keys = cores.iter().zip(&cpus).map(|(core, cpu)| CoreKeys {
        cpu: *cpu,
        spool: Some(core.spool.clone()),
        connections_max: Some(core.connections_max),
        hot_bytes_max: Some(core.hot_bytes_max),
        content_bytes_max: Some(core.content_bytes_max),
        queue_recipients_max: Some(core.queue_recipients_max),
    });
    let keys = keys.collect();
    (Cores::Cpus(cpus), keys)
}
