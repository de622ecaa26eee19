//! `cores`, `pin` and `[[core]]`: which shards there are and what each has for itself.

use super::Core;
use super::error::Place;
use super::source::{Node, Value};
use super::table::{Report, Table};
use super::unit;
use super::written::read_path;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

/// Range of `connections_max`.
pub(super) const CONNECTIONS_MAX: RangeInclusive<u32> = 1..=100_000;
/// Range of `hot_bytes_max`, in bytes.
pub(super) const HOT_BYTES_MAX: RangeInclusive<u64> = 0..=64 << 30;
/// Range of `content_bytes_max`, in bytes.
pub(super) const CONTENT_BYTES_MAX: RangeInclusive<u64> = 1 << 20..=64 << 30;
/// Range of `queue_recipients_max`: 40 to 90 bytes each, and what a scheduler can number.
pub(super) const QUEUE_RECIPIENTS_MAX: RangeInclusive<u32> = 1..=250_000_000;
/// A queue id has ten bits for the number of its spool.
const SHARDS_MAX: usize = 1024;

/// What a shard has when its own `[[core]]` says nothing.
pub(super) struct CoreDefaults<'a> {
    pub directory: &'a Path,
    pub connections_max: usize,
    pub hot_bytes_max: usize,
    pub content_bytes_max: usize,
    pub queue_recipients_max: usize,
}

/// What `cores` asks for.
enum Wish {
    All,
    Count(usize),
    Cpus(Vec<usize>),
}

/// Reads the shards. `usable` are the CPUs that the kernel lets this process use.
pub(super) fn read(
    file: &mut Table,
    defaults: &CoreDefaults,
    usable: &[usize],
    report: &Report,
) -> Vec<Core> {
    let pin = file.flag("pin", true);
    let chosen = chosen(file, pin, usable);
    let mut cores: Vec<Core> = chosen
        .into_iter()
        .enumerate()
        .map(|(number, cpu)| Core {
            cpu,
            spool: defaults.directory.join(format!("shard-{number}")),
            connections_max: defaults.connections_max,
            hot_bytes_max: defaults.hot_bytes_max,
            content_bytes_max: defaults.content_bytes_max,
            queue_recipients_max: defaults.queue_recipients_max,
        })
        .collect();
    let keys = [
        "cpu",
        "spool",
        "connections_max",
        "hot_bytes_max",
        "content_bytes_max",
        "queue_recipients_max",
    ];
    file.none_of("core").know(&keys);
    let tables = file.tables("core").unwrap_or_default();
    let mut named = BTreeSet::new();
    for mut table in tables {
        lay_over(&mut table, &mut cores, &mut named, pin);
        table.end();
    }
    let mut spools = BTreeSet::new();
    if let Some(core) = cores.iter().find(|core| !spools.insert(&core.spool)) {
        let what = format!("two shards have the same spool: {:?}", core.spool);
        report.relation(["spool.directory", "core.spool"], what);
    }
    cores
}

/// The CPU of each shard, in shard order; on a fault, one shard for each that there is.
fn chosen(file: &mut Table, pin: bool, usable: &[usize]) -> Vec<Option<usize>> {
    let on = |cpus: &[usize]| cpus.iter().map(|cpu| pin.then_some(*cpu)).collect::<Vec<_>>();
    let all = || on(usable.get(..SHARDS_MAX).unwrap_or(usable));
    let Some(node) = file.take("cores") else { return all() };
    let found = wish(&node).and_then(|wish| match wish {
        Wish::All => Ok(all()),
        Wish::Count(0) => Err("at least one shard is needed".into()),
        Wish::Count(count) if pin => first_cpus(count, usable).map(on),
        Wish::Count(count) if count > SHARDS_MAX => {
            Err(format!("{count} shards are too many: at most {SHARDS_MAX}"))
        }
        Wish::Count(count) => Ok(vec![None; count]),
        Wish::Cpus(_) if !pin => {
            Err("names CPUs, but pin = false pins to none; give a number of shards".into())
        }
        Wish::Cpus(cpus) => check_cpus(cpus, usable).map(|cpus| on(&cpus)),
    });
    found.unwrap_or_else(|what| {
        file.fault(&node.place, "cores", what);
        all()
    })
}

fn wish(node: &Node) -> Result<Wish, unit::Fault> {
    let fault = || {
        format!(
            "must be \"all\", a number of shards, or a list of CPU numbers such as [0, 1], not {}",
            node.value.shown()
        )
    };
    match &node.value {
        Value::Text(text) if text == "all" => Ok(Wish::All),
        Value::Text(text) => match text.trim().parse() {
            Ok(count) => Ok(Wish::Count(count)),
            Err(_) => unit::read_cpu_list(text)
                .map(Wish::Cpus)
                .map_err(|what| if text.contains(['-', ',']) { what } else { fault() }),
        },
        Value::Integer(count) => usize::try_from(*count).map(Wish::Count).map_err(|_| fault()),
        Value::List(items) => {
            let cpu = |item: &Node| match item.value {
                Value::Integer(cpu) if cpu >= 0 => usize::try_from(cpu).ok(),
                _ => None,
            };
            let cpu = |item: &Node| {
                cpu(item).ok_or_else(|| {
                    let item = item.value.shown();
                    format!("a list of CPU numbers, such as [0, 1], cannot hold {item}")
                })
            };
            items.iter().map(cpu).collect::<Result<_, _>>().map(Wish::Cpus)
        }
        _ => Err(fault()),
    }
}

fn first_cpus(count: usize, usable: &[usize]) -> Result<&[usize], unit::Fault> {
    let most = usable.len().min(SHARDS_MAX);
    usable.get(..count).filter(|_| count <= SHARDS_MAX).ok_or_else(|| {
        format!(
            "{count} shards are too many: at most {most} here, one for each CPU (or as many as \
             you like with pin = false)"
        )
    })
}

fn check_cpus(cpus: Vec<usize>, usable: &[usize]) -> Result<Vec<usize>, unit::Fault> {
    if cpus.is_empty() {
        return Err("at least one shard is needed".into());
    }
    if cpus.len() > SHARDS_MAX {
        return Err(format!("at most {SHARDS_MAX} shards"));
    }
    let mut named = BTreeSet::new();
    for cpu in &cpus {
        if !usable.contains(cpu) {
            let usable = unit::show_cpu_list(usable);
            return Err(format!("CPU {cpu} may not be used here; usable: {usable}"));
        }
        if !named.insert(*cpu) {
            return Err(format!("CPU {cpu} is named twice"));
        }
    }
    Ok(cpus)
}

/// Lays one `[[core]]` over the shard that it names.
fn lay_over(table: &mut Table, cores: &mut [Core], named: &mut BTreeSet<usize>, pin: bool) {
    let cpu_place = table.take("cpu");
    let begin = table.place.clone();
    let spool = table.text("spool");
    let core = cpu_place.as_ref().map(|node| (&node.value, &node.place));
    let found = find(core, &begin, cores, named, pin);
    // A shard that nobody has takes the rest of a table whose CPU is wrong, to check it as well.
    let mut nobody = Core {
        cpu: None,
        spool: Default::default(),
        connections_max: *CONNECTIONS_MAX.start() as usize,
        hot_bytes_max: 0,
        content_bytes_max: 0,
        queue_recipients_max: *QUEUE_RECIPIENTS_MAX.start() as usize,
    };
    let core = match found {
        Ok(core) => core,
        Err((place, what)) => {
            table.fault(&place, "cpu", what);
            &mut nobody
        }
    };
    if let Some((text, place)) = spool {
        match read_path(&text) {
            Ok(path) => core.spool = path,
            Err(what) => table.fault(&place, "spool", what),
        }
    }
    let connections = u32::try_from(core.connections_max).unwrap_or(u32::MAX);
    core.connections_max = table.count("connections_max", connections, CONNECTIONS_MAX);
    let hot_bytes = table.size("hot_bytes_max", core.hot_bytes_max as u64, HOT_BYTES_MAX);
    core.hot_bytes_max = usize::try_from(hot_bytes).unwrap_or(usize::MAX);
    let content = core.content_bytes_max as u64;
    let content = table.size("content_bytes_max", content, CONTENT_BYTES_MAX);
    core.content_bytes_max = usize::try_from(content).unwrap_or(usize::MAX);
    let recipients = u32::try_from(core.queue_recipients_max).unwrap_or(u32::MAX);
    core.queue_recipients_max =
        table.count("queue_recipients_max", recipients, QUEUE_RECIPIENTS_MAX);
}

/// The shard that a `[[core]]` with this `cpu` is about, or what is wrong and where.
fn find<'a>(
    cpu: Option<(&Value, &Place)>,
    begin: &Place,
    cores: &'a mut [Core],
    named: &mut BTreeSet<usize>,
    pin: bool,
) -> Result<&'a mut Core, (Place, unit::Fault)> {
    let Some((value, place)) = cpu else {
        return Err((begin.clone(), "missing; write cpu = 0 (or the CPU that is meant)".into()));
    };
    let fault = |what: String| (place.clone(), what);
    if !pin {
        return Err(fault("pin = false pins to no CPU; leave [[core]] out".into()));
    }
    let number = match value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(fault(format!("must be a CPU number, not {}", value.shown())));
    };
    if !named.insert(number) {
        return Err(fault(format!("CPU {number} has a [[core]] above already")));
    }
    let chosen: Vec<usize> = cores.iter().filter_map(|core| core.cpu).collect();
    cores.iter_mut().find(|core| core.cpu == Some(number)).ok_or_else(|| {
        fault(format!("CPU {number} runs no shard; shards: {}", unit::show_cpu_list(&chosen)))
    })
}
