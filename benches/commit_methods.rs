//! Compares methods of making a batch durable on this kernel and this disk: the spool's commit,
//! without the spool. A batch has the records of 2 KiB that N writers produce while the commit
//! before it is in progress.
//!
//! Run: `cargo bench --bench commit_methods -- [--rounds N] [--slice MS] [FOLDER]`; without a
//! folder, `TMPDIR`. Each round measures all cells once, so that other load on the machine affects
//! all of them; p50 and p99 are of the single commits of all rounds.
//!
//! # Measured
//!
//! 23 November 2026; Linux 6.18, virtual machine with two AMD EPYC cores, virtio disk (write-back
//! cache, no FUA). First the machine's own ext4, which has no journal; then an ext4 with journal
//! (`mkfs.ext4`, data=ordered) newly created on a loop device with direct I/O, on a file of the
//! first. 9 rounds of 50 ms. Other work ran on the machine, so the median commit is shown: in
//! microseconds, for 1, 16, 128 and 1024 writers. Reserved: by fallocate. Written: with zeros,
//! once. With two in flight, each has half of the records: the same time is the same rate.
//!
//! ```text
//! no journal; p50, us
//!                                    growing               reserved              written
//! one in flight                  1   16  128 1024      1   16  128 1024      1   16  128 1024
//! write, fdatasync             216  285  472 1633    199  241  427 1466    120  151  265  877
//! O_DIRECT write, fdatasync    185  221  376 1370    183  208  367 1397    108  140  215  921
//! RWF_DSYNC                    205  260  477 1663    209  250  435 1461    112  157  251  882
//! O_DIRECT RWF_DSYNC           181  224  354 1394    176  210  364 1387    109  123  210  915
//! O_DSYNC                      221  267  449 1590    186  237  407 1435    122  139  251  908
//! ring: write -> fdatasync     276  301  509 1653    244  296  478 1432    168  186  282  901
//! ring: O_DIRECT -> fdatasync  232  265  402 1433    241  272  421 1453    164  206  316 1025
//! two in flight, one file
//!   write, fdatasync                                      270  482 1375         185  298  865
//!   O_DIRECT write, fdatasync                             262  415 1308         162  262  841
//!   RWF_DSYNC                                             303  496 1355         174  314  877
//!   O_DIRECT RWF_DSYNC                                    276  434 1266         159  259  858
//! two in flight, two files
//!   write, fdatasync                                      319  503 1364         197  338  926
//!   O_DIRECT write, fdatasync                             275  438 1344         191  292  885
//!   RWF_DSYNC                                             307  501 1347         191  329  876
//!   O_DIRECT RWF_DSYNC                                    281  431 1340         177  275  863
//! two threads, all writers each
//!   write, fdatasync                                 233  334  638 2358    164  210  449 1601
//!   O_DIRECT write, fdatasync                        233  297  584 2654    145  192  390 2025
//!   RWF_DSYNC                                        269  324  659 2289    157  223  431 1572
//!   O_DIRECT RWF_DSYNC                               242  295  626 2516    161  208  379 1970
//!
//! journal; p50, us
//!                                    growing               reserved              written
//! one in flight                  1   16  128 1024      1   16  128 1024      1   16  128 1024
//! write, fdatasync             828  722  878 1762    692  780  748 1591    225  287  405 1114
//! O_DIRECT write, fdatasync    698  779  698 1278    699  742  730 1326    190  238  341  891
//! RWF_DSYNC                    690  911  821 1741    689  688  769 1642    240  237  411 1027
//! O_DIRECT RWF_DSYNC           679  689  684 1228    651  701  677 1312    229  227  356  938
//! O_DSYNC                      723  736  813 1646    636  741  804 1589    214  271  392 1092
//! ring: write -> fdatasync     733  867  934 1905    778  837  832 1665    264  285  441 1166
//! ring: O_DIRECT -> fdatasync  764  735  738 1364    745  791  767 1504    276  294  460  942
//! two in flight, one file
//!   write, fdatasync                                      920 1068 1635         296  453  967
//!   O_DIRECT write, fdatasync                             890 1012 1452         263  375  810
//!   RWF_DSYNC                                             830 1121 1675         328  425 1011
//!   O_DIRECT RWF_DSYNC                                    878 1022 1494         290  373  873
//! two in flight, two files
//!   write, fdatasync                                     1001 1059 1505         365  452 1032
//!   O_DIRECT write, fdatasync                             816  955 1496         304  406  939
//!   RWF_DSYNC                                             832 1051 1454         318  445 1049
//!   O_DIRECT RWF_DSYNC                                    798  899 1440         316  373  889
//! two threads, all writers each
//!   write, fdatasync                                 919  889 1070 2490    304  327  532 1857
//!   O_DIRECT write, fdatasync                        854  802  997 2336    301  296  449 1821
//!   RWF_DSYNC                                        850  795 1082 2346    322  358  502 1715
//!   O_DIRECT RWF_DSYNC                               922  812 1047 2345    297  326  418 1911
//! ```
//!
//! # Conclusions
//!
//! - *Written is faster than reserved and growing with every method*: for batches up to 16 records
//!   by a factor of 1.6 to 2 without a journal and of 2.7 to 3.7 with one. The first write into a
//!   reserved extent changes metadata, and the sync has to wait until that is committed, with a
//!   journal by the journal's thread. So a segment should be written with zeros once, before it is
//!   used, and be recycled from then on.
//! - O_DIRECT saves 10 to 20 % of the time (no copy, no page lookup), but nothing with 1024 records
//!   without a journal. RWF_DSYNC and O_DSYNC are within noise of write and fdatasync.
//! - A linked write and fdatasync on a ring take 30 to 50 us longer than two calls: the kernel
//!   gives a sync to a worker thread. A shard pays that, because it must not block.
//! - *Two commits in flight are not worth it*: each takes longer than one with all the records,
//!   because the cost is the disk's flush, and there are two of them; only 1024 records (2 MiB)
//!   gain, up to 15 %. Two shards, with a file each, reach 1.1 to 1.8 times the rate of one.
//!
//! Chosen: one commit in flight, buffered write and fdatasync, in segments that were written once:
//! the spool writes zeros to new ones beforehand. The effect on a relay whose queue only grows, so
//! that every segment is new (one shard, dead route, `ringpost-load source`; messages a second,
//! only reserved and then written; one run of 4 s each on a busy machine, except for the mean of
//! four where noted):
//!
//! ```text
//! sessions           1               16                          100
//! no journal   1374 1675        5993 8930                 12226 16792
//! journal       914 1461   (of 4) 5644 6911                10021  9796
//! ```
//!
//! One of the four with 16 sessions had the opposite result (5368 and 4449), and with 100 sessions
//! and a journal there is no gain: the zeros are synced on the same disk that the commits need.
//! O_DIRECT is the next step if the copy ever matters; then the first read of a record that is not
//! in memory goes to the disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use io_uring::{IoUring, opcode, squeue, types};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RECORD: usize = 2048;
const BATCH_HEADER: usize = 40;
const BLOCK: usize = 4096;
/// Size of the file: that of a segment.
const FILE: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Fdatasync,
    DirectFdatasync,
    Dsync,
    DirectDsync,
    OpenDsync,
    RingLinked,
    RingDirectLinked,
}

impl Method {
    const ALL: [Method; 7] = [
        Method::Fdatasync,
        Method::DirectFdatasync,
        Method::Dsync,
        Method::DirectDsync,
        Method::OpenDsync,
        Method::RingLinked,
        Method::RingDirectLinked,
    ];
    /// The methods that are compared with two commits in flight.
    const SOME: [Method; 4] =
        [Method::Fdatasync, Method::DirectFdatasync, Method::Dsync, Method::DirectDsync];

    fn name(self) -> &'static str {
        match self {
            Method::Fdatasync => "write, fdatasync",
            Method::DirectFdatasync => "O_DIRECT write, fdatasync",
            Method::Dsync => "RWF_DSYNC",
            Method::DirectDsync => "O_DIRECT RWF_DSYNC",
            Method::OpenDsync => "O_DSYNC",
            Method::RingLinked => "ring: write -> fdatasync",
            Method::RingDirectLinked => "ring: O_DIRECT -> fdatasync",
        }
    }

    fn flags(self) -> i32 {
        match self {
            Method::Fdatasync | Method::Dsync | Method::RingLinked => 0,
            Method::DirectFdatasync | Method::DirectDsync | Method::RingDirectLinked => {
                libc::O_DIRECT
            }
            Method::OpenDsync => libc::O_DSYNC,
        }
    }
}

/// The state of the file's space before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No space: the file grows.
    Growing,
    /// Reserved by fallocate, never written.
    Reserved,
    /// Written once, with zeros: as a recycled segment.
    Written,
}

impl State {
    const ALL: [State; 3] = [State::Growing, State::Reserved, State::Written];
}

/// How many commits at once, and where. The writers are divided among the commits in flight, except
/// for `Shards`, where each thread has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    TwoRegions,
    TwoFiles,
    Shards,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::One => "one in flight",
            Shape::TwoRegions => "two in flight, one file",
            Shape::TwoFiles => "two in flight, two files",
            Shape::Shards => "two threads, all writers each",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    shape: Shape,
    state: State,
    method: Method,
    writers: usize,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for writers in [1, 16, 128, 1024] {
        for state in State::ALL {
            for method in Method::ALL {
                cells.push(Cell { shape: Shape::One, state, method, writers });
            }
        }
        for shape in [Shape::TwoRegions, Shape::TwoFiles, Shape::Shards] {
            if writers == 1 && shape != Shape::Shards {
                continue;
            }
            for state in [State::Reserved, State::Written] {
                for method in Method::SOME {
                    cells.push(Cell { shape, state, method, writers });
                }
            }
        }
    }
    cells
}

/// A buffer that is aligned for direct I/O.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn of_records(count: usize) -> Aligned {
        let length = (BATCH_HEADER + count * RECORD).div_ceil(BLOCK) * BLOCK;
        let bytes = vec![0x5a; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, start, length }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

thread_local! {
    static RING: RefCell<IoUring> = RefCell::new(IoUring::new(8).unwrap());
}

fn commit(method: Method, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    match method {
        Method::Fdatasync | Method::DirectFdatasync => {
            file.write_all_at(bytes, offset)?;
            file.sync_data()
        }
        Method::OpenDsync => file.write_all_at(bytes, offset),
        Method::Dsync | Method::DirectDsync => write_dsync(file, bytes, offset),
        Method::RingLinked | Method::RingDirectLinked => {
            RING.with_borrow_mut(|ring| write_linked(ring, file, bytes, offset))
        }
    }
}

fn write_dsync(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let part = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    let offset = libc::off_t::try_from(offset).unwrap();
    // SAFETY: the descriptor is open, and the one part is `bytes`, which is only read.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, offset, libc::RWF_DSYNC) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn write_linked(ring: &mut IoUring, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let file = types::Fd(file.as_raw_fd());
    let length = u32::try_from(bytes.len()).unwrap();
    let write = opcode::Write::new(file, bytes.as_ptr(), length).offset(offset).build();
    let sync = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
    let linked = [write.flags(squeue::Flags::IO_LINK).user_data(u64::from(length)), sync];
    // SAFETY: `bytes` lives until both have completed, which is waited for here.
    unsafe { ring.submission().push_multiple(&linked).unwrap() };
    let mut completed = 0;
    let mut all_well = true;
    while completed < linked.len() {
        ring.submit_and_wait(1)?;
        for one in ring.completion() {
            completed += 1;
            all_well &= u64::try_from(one.result()) == Ok(one.user_data());
        }
    }
    if all_well { Ok(()) } else { Err(io::Error::other("a linked write failed or was short")) }
}

/// A file in the requested state, and the current offset in it.
struct Target {
    path: PathBuf,
    file: File,
    state: State,
    next: AtomicU64,
}

impl Target {
    fn new(folder: &Path, number: usize, state: State, flags: i32) -> Target {
        let path = folder.join(format!("{state:?}-{number}"));
        if state == State::Written {
            // Written once in the whole run.
            let full = path.metadata().is_ok_and(|metadata| metadata.len() == FILE);
            if !full {
                let file = File::create(&path).unwrap();
                let zeros = vec![0; 1 << 20];
                (0..FILE >> 20).for_each(|at| file.write_all_at(&zeros, at << 20).unwrap());
                file.sync_all().unwrap();
            }
        } else {
            let _ = std::fs::remove_file(&path);
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(flags);
        let file = options.open(&path).unwrap();
        if state == State::Reserved {
            let length = libc::off_t::try_from(FILE).unwrap();
            // SAFETY: the descriptor is open; no memory is passed.
            assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) }, 0);
        }
        file.sync_all().unwrap();
        Target { path, file, state, next: AtomicU64::new(0) }
    }

    /// The next offset; `None` at the end of a file that may be written only once.
    fn place(&self, length: usize) -> Option<u64> {
        let length = length as u64;
        let at = self.next.fetch_add(length, Ordering::Relaxed);
        if at + length <= FILE {
            return Some(at);
        }
        // Wraps around in whole batches.
        (self.state == State::Written).then(|| at / length % (FILE / length) * length)
    }
}

/// Commits for the time `slice`, or until the file is full; returns how long each took.
fn commits(cell: Cell, target: &Target, records: usize, slice: Duration) -> Vec<Duration> {
    let bytes = Aligned::of_records(records);
    let mut took = Vec::new();
    let start = Instant::now();
    while start.elapsed() < slice {
        let Some(at) = target.place(bytes.length) else { break };
        let began = Instant::now();
        commit(cell.method, &target.file, bytes.get(), at).unwrap();
        took.push(began.elapsed());
    }
    took
}

/// Runs one slice of one cell; returns how long its commits took.
fn slice(cell: Cell, folder: &Path, slice: Duration) -> Vec<Duration> {
    let (threads, files, records) = match cell.shape {
        Shape::One => (1, 1, cell.writers),
        Shape::TwoRegions => (2, 1, cell.writers / 2),
        Shape::TwoFiles => (2, 2, cell.writers / 2),
        Shape::Shards => (2, 2, cell.writers),
    };
    let targets: Vec<Target> = (0..files)
        .map(|number| Target::new(folder, number, cell.state, cell.method.flags()))
        .collect();
    let took: Vec<Duration> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let target = &targets[thread % files];
                scope.spawn(move || commits(cell, target, records, slice))
            })
            .collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for target in targets.iter().filter(|target| target.state != State::Written) {
        std::fs::remove_file(&target.path).unwrap();
    }
    took
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    // As a test, it only shows that it works.
    let (mut rounds, mut length) = (1, Duration::from_millis(1));
    let mut parent = std::env::temp_dir();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => (rounds, length) = (7, Duration::from_millis(60)),
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--slice" => {
                length = Duration::from_millis(arguments.next().unwrap().parse().unwrap());
            }
            folder => parent = folder.into(),
        }
    }
    let folder = tempfile::tempdir_in(parent).unwrap();
    let cells = cells();
    let mut times = vec![Vec::new(); cells.len()];
    for _ in 0..rounds {
        for (position, &cell) in cells.iter().enumerate() {
            times[position].extend(slice(cell, folder.path(), length));
        }
    }
    println!("{rounds} rounds of {length:?}; thousand records/s (p50 / p99 of a commit, us)");
    let mut printed = Vec::new();
    for cell in &cells {
        let group = (cell.shape, cell.state);
        if printed.contains(&group) {
            continue;
        }
        printed.push(group);
        println!("\n{}, {:?}", cell.shape.name(), cell.state);
        println!("{:28} {:>22} {:>22} {:>22} {:>22}", "writers", 1, 16, 128, 1024);
        for method in Method::ALL {
            let found = [1, 16, 128, 1024].map(|writers| {
                cells.iter().position(|other| {
                    (other.shape, other.state) == group
                        && (other.method, other.writers) == (method, writers)
                })
            });
            if found.iter().all(Option::is_none) {
                continue;
            }
            print!("{:28}", method.name());
            for at in found {
                let figure = at.map(|at| figure(cells[at], &mut times[at]));
                print!(" {:>22}", figure.unwrap_or_default());
            }
            println!();
        }
    }
}

/// The rate by the median commit: a mean would depend more on other load on the machine.
fn figure(cell: Cell, times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).map_or(0, Duration::as_micros)
    };
    let in_flight = if cell.shape == Shape::Shards { 2 } else { 1 };
    let rate = (in_flight * cell.writers) as f64 * 1000.0 / at(0.5) as f64;
    format!("{rate:.1} ({} / {})", at(0.5), at(0.99))
}
