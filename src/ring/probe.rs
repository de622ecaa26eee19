//! Checks what the kernel allows before the driver starts, whose own errors are wrong or missing.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::start_error::StartError;

/// The oldest kernel that works.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Sensible numbers of entries of a submission ring, which the kernel accepts.
pub(super) const DEPTH_MIN: usize = 8;
pub(super) const DEPTH_MAX: usize = 32_768;

/// Locked memory of one shard whatever its depth: a buffer of 64 KiB, registered once for each of
/// its three rings.
const PINNED_BYTES: u64 = 192 * 1024;
/// Locked memory of one shard's rings at [`DEPTH_MEASURED`]; it grows with the depth.
const RINGS_BYTES: u64 = 48 * 1024;
const DEPTH_MEASURED: u64 = 128;
/// The driver refuses to start below this limit, even with CAP_IPC_LOCK.
const MEMORY_LOCK_MIN: u64 = 512 * 1024;

/// CAP_IPC_LOCK, as a bit of the effective set.
const CAPABILITY_LOCK: u64 = 1 << 14;

const SYSCTL_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Operations that the driver needs: it ends the process when one is missing. Numbers of
/// `enum io_uring_op` in the kernel's `io_uring.h`.
const OPERATIONS: [(usize, &str); 24] = [
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (14, "ASYNC_CANCEL"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// Raises the limit of open files as far as possible without privilege; returns the new limit.
pub fn raise_open_files() -> u64 {
    raise(libc::RLIMIT_NOFILE)
}

/// Checks that a ring of `depth` entries can be created, and, as far as possible, for `shards`
/// shards.
pub(super) fn check(shards: usize, depth: usize) -> Result<(), StartError> {
    let mut limit = raise(libc::RLIMIT_MEMLOCK);
    let needed = memory_needed(shards, depth);
    let exempt = may_lock_memory();
    if limit < MEMORY_LOCK_MIN && exempt {
        // The kernel does not count memory of this process, but the driver checks the limit.
        limit = lift(libc::RLIMIT_MEMLOCK, MEMORY_LOCK_MIN);
    }
    if limit < MEMORY_LOCK_MIN {
        let needed = needed.max(MEMORY_LOCK_MIN);
        return Err(StartError::MemoryLock { limit, needed, shards, depth });
    }
    if limit < needed && !exempt {
        // Kernels count it differently, and other processes of the user count too, so only warn.
        tracing::warn!(limit, needed, shards, depth, "RLIMIT_MEMLOCK may be too low for the rings");
    }
    let ring = set_up(depth).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM) => StartError::MemoryLock { limit, needed, shards, depth },
        _ => unavailable(&error),
    })?;
    enter(&ring).map_err(|error| unavailable(&error))?;
    let missing = missing_operations(&ring).map_err(|error| unavailable(&error))?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StartError::Unavailable(format!(
        "the kernel ({}) lacks io_uring operations: {}; Linux 5.8 or later is needed",
        kernel_release(),
        missing.join(", ")
    )))
}

/// Explains an error of one shard's rings.
pub(super) fn ring_error(error: io::Error, shards: usize, depth: usize) -> StartError {
    if error.raw_os_error() == Some(libc::ENOMEM) || error.kind() == io::ErrorKind::OutOfMemory {
        let limit = limits(libc::RLIMIT_MEMLOCK).rlim_cur;
        let needed = memory_needed(shards, depth);
        return StartError::MemoryLock { limit, needed, shards, depth };
    }
    unavailable(&error)
}

/// Estimate, on the high side, of the locked memory in bytes of `shards` rings with `depth`
/// entries: 240 KiB each at depth 128 as measured, growing with the depth.
pub(super) fn memory_needed(shards: usize, depth: usize) -> u64 {
    let rings = RINGS_BYTES.saturating_mul(depth as u64) / DEPTH_MEASURED;
    PINNED_BYTES.saturating_add(rings).saturating_mul(shards as u64)
}

/// CPUs that this process may use.
pub(super) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = affinity()?;
    // SAFETY: CPU_ISSET reads within the set, since every `cpu` is below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Pins the calling thread to `cpus`.
pub(super) fn pin(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: a set of CPUs is plain bits, and all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: CPU_SET writes within the set, since `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set is our own, with its size; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: a set of CPUs is plain bits, and all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is our own, with its size; 0 is the calling thread.
    match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

/// io_uring_setup(2).
fn set_up(depth: usize) -> io::Result<OwnedFd> {
    // `struct io_uring_params`: 120 bytes, all zero for the defaults.
    let mut parameters = [0u32; 30];
    // SAFETY: the parameters are our own, and as large as the kernel's structure.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, depth, parameters.as_mut_ptr()) };
    match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just opened this descriptor for us, and no other code has it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// io_uring_enter(2) without work: a filter may allow only the setup.
fn enter(ring: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            0,
            0,
            0,
            std::ptr::null::<libc::sigset_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Names of the operations in [`OPERATIONS`] that the kernel does not know.
fn missing_operations(ring: &OwnedFd) -> io::Result<Vec<&'static str>> {
    const REGISTER_PROBE: libc::c_long = 8;
    const OPERATIONS_MAX: usize = 256;
    const SUPPORTED: u64 = 1;
    // `struct io_uring_probe`: 16 bytes, then 8 bytes for each operation.
    let mut probe = [0u64; 2 + OPERATIONS_MAX];
    // SAFETY: the structure is our own, zeroed, and has room for as many operations as stated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_PROBE,
            probe.as_mut_ptr(),
            OPERATIONS_MAX,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // One operation: its number (1 byte), 1 byte unused, 2 bytes of flags, 4 bytes unused.
    let supported = |number: usize| {
        probe.get(2 + number).is_some_and(|entry| {
            let [_, _, low, high, ..] = entry.to_ne_bytes();
            u64::from(u16::from_ne_bytes([low, high])) & SUPPORTED != 0
        })
    };
    Ok(OPERATIONS.iter().filter(|(number, _)| !supported(*number)).map(|(_, name)| *name).collect())
}

/// The error for a kernel that refuses a ring.
fn unavailable(error: &io::Error) -> StartError {
    let sysctl = fs::read_to_string(SYSCTL_DISABLED).ok();
    let sysctl = sysctl.and_then(|text| text.trim().parse().ok());
    StartError::Unavailable(refusal(error, sysctl, &kernel_release()))
}

/// The message about `error`, given the sysctl `kernel.io_uring_disabled` (if the kernel has it)
/// and the kernel's release.
fn refusal(error: &io::Error, disabled: Option<u32>, release: &str) -> String {
    if kernel_version(release).is_some_and(|version| version < KERNEL_MIN) {
        let (major, minor) = KERNEL_MIN;
        return format!(
            "the kernel ({release}) is too old: io_uring is needed as of Linux {major}.{minor}"
        );
    }
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(2)) => "io_uring is switched off: set the sysctl \
             kernel.io_uring_disabled to 0"
            .to_owned(),
        (Some(libc::EPERM | libc::EACCES), Some(1)) => "io_uring is switched off for ordinary \
             users: set the sysctl kernel.io_uring_disabled to 0, or let the relay run in the \
             group that kernel.io_uring_group names"
            .to_owned(),
        (Some(libc::EPERM | libc::EACCES), _) => "io_uring is forbidden to this process, most \
             likely by a seccomp filter: allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile or the service's \
             SystemCallFilter"
            .to_owned(),
        (Some(libc::ENOSYS), _) => format!(
            "the kernel ({release}) has no io_uring: it was built without, or a seccomp filter \
             hides io_uring_setup, io_uring_enter and io_uring_register"
        ),
        (Some(libc::EMFILE), _) => "no descriptor is left for io_uring: raise the limit of open \
             files (LimitNOFILE)"
            .to_owned(),
        _ => format!("io_uring does not work on this kernel ({release}): {error}"),
    }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|digit: char| !digit.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "of unknown release".to_owned(), |text| text.trim().to_owned())
}

/// Whether locked memory is not counted for this process.
fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & CAPABILITY_LOCK != 0)
}

/// Raises a soft limit to the hard one; returns the resulting soft limit.
fn raise(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = limits(resource);
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the structure is our own.
        unsafe { libc::setrlimit(resource, &limit) };
    }
    limits(resource).rlim_cur
}

/// Sets both limits to `value`, which needs privilege; returns the resulting soft limit.
fn lift(resource: libc::__rlimit_resource_t, value: u64) -> u64 {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure is our own.
    unsafe { libc::setrlimit(resource, &limit) };
    limits(resource).rlim_cur
}

fn limits(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is our own. It fails for an unknown resource only, and leaves zeros.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_refusal_names_what_the_operator_can_change() {
        let release = "6.1.0-18-amd64";
        assert!(refusal(&os(libc::EPERM), Some(2), release).contains("io_uring_disabled to 0"));
        assert!(refusal(&os(libc::EPERM), Some(1), release).contains("kernel.io_uring_group"));
        assert!(refusal(&os(libc::EPERM), Some(0), release).contains("seccomp"));
        assert!(refusal(&os(libc::EPERM), None, release).contains("SystemCallFilter"));
        assert!(refusal(&os(libc::ENOSYS), None, release).contains("built without"));
        assert!(refusal(&os(libc::EMFILE), None, release).contains("LimitNOFILE"));
        assert!(refusal(&os(libc::ENOSYS), None, "5.4.0-150-generic").contains("too old"));
    }

    #[test]
    fn a_release_is_read_up_to_the_minor_number() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(kernel_version("5.8"), Some((5, 8)));
        assert_eq!(kernel_version("of unknown release"), None);
    }

    #[test]
    fn memory_for_the_rings_grows_with_shards_and_depth() {
        assert_eq!(memory_needed(1, 128), 240 * 1024);
        assert_eq!(memory_needed(16, 128), 16 * 240 * 1024);
        assert_eq!(memory_needed(1, 1024), (192 + 8 * 48) * 1024);
        assert_eq!(memory_needed(usize::MAX, usize::MAX), u64::MAX);
    }

    #[test]
    fn a_memory_limit_is_reported_with_figures_and_remedy() {
        let limit = 8 * 1024 * 1024;
        let needed = memory_needed(64, 128);
        let message = StartError::MemoryLock { limit, needed, shards: 64, depth: 128 }.to_string();
        assert!(message.contains("8 MiB"), "{message}");
        assert!(message.contains("15 MiB"), "{message}");
        assert!(message.contains("64 shards"), "{message}");
        assert!(message.contains("LimitMEMLOCK=infinity"), "{message}");
        assert!(message.contains("CAP_IPC_LOCK"), "{message}");
        assert!(message.contains("all processes of the user"), "{message}");
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let raised = raise_open_files();
        assert_eq!(raised, limits(libc::RLIMIT_NOFILE).rlim_max);
    }
}
