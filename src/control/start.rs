//! From a checked configuration to running shards. All problems with the machine are found here,
//! before the first message is accepted, and reported with advice for the operator.

use super::reload::{LiveTls, Reloader};
use crate::auth::{Authenticator, UsersError};
use crate::config::{self, Config, EventOutput, Listener, Problem, Roots};
use crate::credentials::OutboundCredentials;
use crate::event::EventWriter;
use crate::limits;
use crate::pool::{AcrossShards, AddressCounts, SiteOutages};
use crate::quota::Quotas;
use crate::ring::{self, Reservation, Sender};
use crate::shard::{self, FailedSpools, Plan, Ready, Request};
use crate::spool;
use crate::tls::{Client, ClientFiles, Server, TlsError};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Capacity of the mailbox between two shards; when it is full, the sending shard waits.
const MAILBOX: usize = 16 * 1024;
/// Capacity of a shard's mailbox for requests of the operator.
const REQUESTS: usize = 64;
/// The end of a shard is noticed within this time.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// An address that is in use is tried again for this long, at this interval.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);
const ADDRESS_RETRY: Duration = Duration::from_millis(50);
/// The shards have this much longer than `control.stop_within` before the process ends anyway.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
/// Open files that one shard needs besides its connections: a socket for each DNS lookup, and some
/// for rings, segments and listeners.
const FILES_PER_SHARD: u64 =
    (limits::DNS_QUICK_LOOKUPS_MAX + limits::DNS_PATIENT_LOOKUPS_MAX) as u64 + 256;

/// Why the relay cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A folder or file cannot be used.
    #[error("{path}: {cause}")]
    Path {
        /// Which.
        path: PathBuf,
        /// The error of the operating system, and what to do.
        cause: String,
    },
    /// Cannot listen on an address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The error of the operating system, and what to do.
        cause: String,
    },
    /// The limit on open files is too low.
    #[error(
        "the limit on open files is {limit}, and this configuration needs {needed}: raise it \
         (`ulimit -n {needed}`, `LimitNOFILE={needed}` in a systemd unit), or lower \
         core_default.connections_max or pool.connections_max"
    )]
    OpenFiles {
        /// The limit of this process.
        limit: u64,
        /// Files that may be open at once.
        needed: u64,
    },
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] spool::SpoolError),
    /// The event log cannot be opened.
    #[error("event log: {0}")]
    Events(std::io::Error),
    /// A file or folder that a key names cannot be used.
    #[error("{0}")]
    Named(Problem),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The users file cannot be used.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// io_uring, memory or CPUs are not available.
    #[error(transparent)]
    Ring(#[from] ring::StartError),
    /// A shard could not start.
    #[error("{0}")]
    Shard(String),
    /// The relay has ended in good order, but a commit had failed before.
    #[error("stopped, and a spool had failed, so that no mail was taken there: {0}")]
    SpoolFailed(String),
    /// A shard ended by a fault while running.
    #[error("a shard ended by a fault, so the relay stops: {0}")]
    ShardEnded(String),
    /// The control plane's own runtime.
    #[error("control plane: {0}")]
    Runtime(String),
}

/// The running relay, as the control plane holds it.
pub(super) struct Running {
    pub(super) requests: Vec<Sender<Request>>,
    pub(super) socket: UnixListener,
    pub(super) socket_path: PathBuf,
    pub(super) events: EventWriter,
    pub(super) config: Arc<Config>,
    pub(super) stop_within: Duration,
    pub(super) reloaders: Vec<Reloader>,
    /// The `[tls]` from which [`Reloader`]s read certificates.
    pub(super) live_tls: LiveTls,
    /// All shards have ended; `Err` names those that panicked.
    pub(super) ended: Ended,
    /// Shards that ended with a spool that has failed.
    pub(super) failed_spools: FailedSpools,
    /// Held as long as the relay runs.
    _lock: spool::lock::Lock,
}

impl ServeError {
    /// With the key that names the file, and where it was written.
    fn with_key(self, config: &Config) -> ServeError {
        let file = match &self {
            ServeError::Tls(error) => error.file(),
            ServeError::Users(error) => error.file(),
            ServeError::Path { path, .. } => Some(path.as_path()),
            _ => None,
        };
        match file {
            Some(_) => ServeError::Named(config.problem_with(file, self.to_string())),
            None => self,
        }
    }
}

/// Starts everything, or nothing.
pub(super) fn start(config: Config) -> Result<Running, ServeError> {
    let config = Arc::new(config);
    start_all(&config).map_err(|error| error.with_key(&config))
}

fn start_all(config: &Arc<Config>) -> Result<Running, ServeError> {
    let config = Arc::clone(config);
    let server = Server::new(&config.tls)?.map(Arc::new);
    let client_files = ClientFiles::new(&config.tls, &config.route.certificates)?;
    // Each shard builds its own; an error is better reported once, here.
    Client::new(&config.tls, &client_files)?;
    let shown = Shown { server, client_files };
    let accounts = open_accounts(&config)?;
    create_folder(&config.spool.directory)?;
    let lock = spool::lock::acquire(&config.spool.directory)?;
    for core in &config.cores {
        create_folder(&core.spool)?;
    }
    check_open_files(&config)?;
    let reservations = reserve(&config)?;
    let listen: Vec<Listener> = reservations
        .iter()
        .zip(&config.listeners)
        .map(|(reservation, one)| Listener { address: reservation.address(), ..one.clone() })
        .collect();
    let socket = bind_socket(&config.control)?;
    if let EventOutput::File(path) = &config.event.output
        && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
    {
        create_folder(folder)?;
    }
    let events =
        EventWriter::start(&config.event, config.cores.len()).map_err(ServeError::Events)?;

    let failed_spools = FailedSpools::default();
    let (plans, requests, ready) =
        plans(&config, &listen, &shown, &accounts, &events, &failed_spools)?;
    let plans = Arc::new(Mutex::new(plans));
    let cpus: Vec<Option<usize>> = config.cores.iter().map(|core| core.cpu).collect();
    let settings = ring::Settings { depth: config.ring.depth, preempt: config.ring.preempt };
    let began = ring::now();
    let shards = ring::start(&cpus, &settings, move |index| {
        let plan = plans.lock().ok().and_then(|mut plans| plans.get_mut(index)?.take());
        async move {
            if let Some(plan) = plan {
                shard::run(plan).await;
            }
        }
    })?;
    let stop_within = config.control.stop_within + STOP_GRACE;
    let mut ended = watch(shards, requests.clone(), stop_within)?;
    if let Err(error) = await_ready(&ready, config.cores.len(), began) {
        // The other shards may have begun to deliver: stop them in order.
        super::request_stop_of_all(&requests);
        return Err(await_end(&mut ended, stop_within).unwrap_or(error));
    }
    drop(reservations);
    for Listener { address, .. } in &listen {
        tracing::info!(%address, shards = config.cores.len(), "listening");
    }
    let live_tls = LiveTls::new(config.tls.clone());
    Ok(Running {
        requests,
        socket,
        socket_path: config.control.socket.clone(),
        events,
        stop_within: config.control.stop_within,
        reloaders: reloaders(&config, &live_tls, shown, accounts),
        live_tls,
        config,
        ended,
        failed_spools,
        _lock: lock,
    })
}

/// The relay's certificates for clients, and those for next hops.
struct Shown {
    server: Option<Arc<Server>>,
    client_files: ClientFiles,
}

/// The users that may log in, and the credentials for next hops.
struct Accounts {
    authenticator: Option<Arc<Authenticator>>,
    logins: Option<Arc<OutboundCredentials>>,
}

/// Reads the files of users and passwords, and starts the threads that hash.
fn open_accounts(config: &Config) -> Result<Accounts, ServeError> {
    let (users, logins) = (&config.auth.users, &config.route.logins);
    let tokens = &config.auth.tokens;
    if users.is_none() && tokens.is_none() && logins.is_empty() {
        return Ok(Accounts { authenticator: None, logins: None });
    }
    let workers =
        Authenticator::workers().map_err(|error| ServeError::Runtime(error.to_string()))?;
    let workers = Arc::new(workers);
    let authenticator = Authenticator::open(&config.auth, &workers)?.map(Arc::new);
    let known = authenticator.as_ref().map(|authenticator| authenticator.users());
    for warning in known.iter().flat_map(|users| users.warnings(config.tls.client_roots.is_some()))
    {
        tracing::warn!("users file: {warning}");
    }
    let logins = match logins.as_slice() {
        [] => None,
        some => Some(Arc::new(OutboundCredentials::open(some, &workers)?)),
    };
    Ok(Accounts { authenticator, logins })
}

/// The reloaders of all files that are read again while the relay runs.
fn reloaders(
    config: &Config,
    live_tls: &LiveTls,
    shown: Shown,
    accounts: Accounts,
) -> Vec<Reloader> {
    let Shown { server, client_files } = shown;
    let certificates = server.map(|server| {
        let (tls, watched) = (live_tls.clone(), live_tls.clone());
        let reload = move || {
            let tls = tls.get();
            server.reload(&tls).map_err(|error| error.to_string())?;
            Ok(tls.certificates.len())
        };
        Reloader::of_files("certificates", Box::new(move || watched.files()), Box::new(reload))
    });
    let others = (!config.route.certificates.is_empty()).then(|| {
        let files = &config.route.certificates;
        let files = files.iter().flat_map(|one| [one.cert.clone(), one.key.clone()]).collect();
        let reloaded = client_files.clone();
        let reload = move || reloaded.reload_certificates().map_err(|error| error.to_string());
        Reloader::new("certificates for next hops", files, Box::new(reload))
    });
    let roots = {
        let files = match &config.tls.roots {
            Roots::File(path) => vec![path.clone()],
            Roots::System => Vec::new(),
        };
        let reload = move || client_files.reload_roots().map_err(|error| error.to_string());
        Reloader::new("trusted roots", files, Box::new(reload))
    };
    let tokens = accounts.authenticator.clone().zip(config.auth.tokens.as_ref()).map(
        |(authenticator, tokens)| {
            let reload = move || authenticator.reload_tokens().map_err(|error| error.to_string());
            Reloader::new("the files of auth.tokens", tokens.files(), Box::new(reload))
        },
    );
    let users =
        accounts.authenticator.zip(config.auth.users.clone()).map(|(authenticator, file)| {
            let reload = move || authenticator.reload().map_err(|error| error.to_string());
            Reloader::new("users", vec![file], Box::new(reload))
        });
    let passwords = accounts.logins.map(|logins| {
        let files = logins.files();
        let reload = move || logins.reload().map_err(|error| error.to_string());
        Reloader::new("passwords for next hops", files, Box::new(reload))
    });
    let certificates = certificates.into_iter().chain(others).chain([roots]);
    certificates.chain(users).chain(tokens).chain(passwords).collect()
}

/// Reports when all shards have ended. If one ends by itself, the others are stopped too: its mail
/// would wait for ever, and the service manager can restart the process. One that does not end
/// within `stop_within` then is not waited for.
fn watch(
    shards: ring::Shards,
    requests: Vec<Sender<Request>>,
    stop_within: Duration,
) -> Result<Ended, ServeError> {
    let (tell, ended) = oneshot::channel();
    let watching = move || {
        while !shards.any_ended() {
            std::thread::sleep(WATCH_INTERVAL);
        }
        let until = ring::now() + stop_within;
        // Ask repeatedly, because a mailbox may be full. Asking more than once is harmless.
        while !shards.all_ended() && ring::now() < until {
            super::request_stop_of_all(&requests);
            std::thread::sleep(WATCH_INTERVAL);
        }
        let result = match shards.all_ended() {
            true => shards.join(),
            false => Err(vec!["after the end of one shard another did not end".to_owned()]),
        };
        // The receiver is gone when the process is about to end.
        let _ = tell.send(result);
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watching)
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    Ok(ended)
}

/// Waits for the end of all shards after one could not start. Returns the fault that ended one, if
/// there is any.
fn await_end(ended: &mut Ended, within: Duration) -> Option<ServeError> {
    let until = ring::now() + within;
    while ring::now() < until {
        match ended.try_recv() {
            Ok(result) => return result.err().map(|faults| ServeError::Shard(faults.join("; "))),
            Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(WATCH_INTERVAL),
            Err(oneshot::error::TryRecvError::Closed) => return None,
        }
    }
    None
}

type Ended = oneshot::Receiver<Result<(), Vec<String>>>;
type Plans = Vec<Option<Plan>>;
type ReadyReceiver = crossbeam_channel::Receiver<Result<Ready, String>>;

fn plans(
    config: &Arc<Config>,
    listen: &[Listener],
    shown: &Shown,
    accounts: &Accounts,
    events: &EventWriter,
    failed_spools: &FailedSpools,
) -> Result<(Plans, Vec<Sender<Request>>, ReadyReceiver), ServeError> {
    let count = config.cores.len();
    // The same shard always adopts, because it knows what it has adopted already.
    let mut orphans = orphans(config)?;
    let (ready_tell, ready) = crossbeam_channel::bounded(count);
    let (peers, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| ring::mailbox(MAILBOX)).unzip();
    let quotas = Arc::new(Quotas::new(count));
    let limits = &config.pool;
    let per_address = limits.connections_per_address.unwrap_or(limits.connections_per_site);
    let addresses = AddressCounts::new(per_address);
    let across = AcrossShards { addresses, outages: SiteOutages::default() };
    let mut plans = Vec::new();
    let mut requests = Vec::new();
    for (index, (core, mailbox)) in config.cores.iter().zip(mailboxes).enumerate() {
        let (asking, asked) = ring::mailbox(REQUESTS);
        requests.push(asking);
        plans.push(Some(Plan {
            index,
            config: Arc::clone(config),
            core: core.clone(),
            listen: listen.to_vec(),
            server: shown.server.clone(),
            client_files: shown.client_files.clone(),
            authenticator: accounts.authenticator.clone(),
            logins: accounts.logins.clone(),
            quotas: Arc::clone(&quotas),
            orphans: std::mem::take(&mut orphans),
            peers: peers.clone(),
            across: across.clone(),
            failed_spools: failed_spools.clone(),
            mailbox,
            requests: asked,
            events: events.log(index),
            ready: ready_tell.clone(),
        }));
    }
    Ok((plans, requests, ready))
}

/// Folders of shards that are no longer configured.
fn orphans(config: &Config) -> Result<Vec<PathBuf>, ServeError> {
    let is_used =
        |folder: &Path| {
            config.cores.iter().any(|core| {
                core.spool == folder
                    || core.spool.canonicalize().ok().is_some_and(|used| {
                        folder.canonicalize().is_ok_and(|folder| used == folder)
                    })
            })
        };
    Ok(spool::orphans(&config.spool.directory, is_used)?)
}

fn await_ready(ready: &ReadyReceiver, count: usize, began: Instant) -> Result<(), ServeError> {
    let (mut messages, mut in_doubt, mut set_aside) = (0, 0, 0);
    for _ in 0..count {
        match ready.recv() {
            Ok(Ok(one)) => {
                messages += one.messages;
                in_doubt += one.in_doubt;
                set_aside += one.set_aside;
            }
            Ok(Err(cause)) => return Err(ServeError::Shard(cause)),
            Err(_) => {
                return Err(ServeError::Shard("a shard ended during the start".to_owned()));
            }
        }
    }
    let took = ring::now().saturating_duration_since(began);
    tracing::info!(shards = count, messages, in_doubt, set_aside, ?took, "spool recovered");
    Ok(())
}

/// Creates the folder if it is missing, but not its parent: see [`spool::missing_above`].
fn create_folder(path: &Path) -> Result<(), ServeError> {
    let failed = |what: &str, error: std::io::Error| ServeError::Path {
        path: path.to_owned(),
        cause: format!("{what}: {error}{}", owner_hint(path, &error)),
    };
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(_) if path.is_dir() => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = path.parent().unwrap_or(path);
            let (path, cause) = (path.to_owned(), spool::missing_above(above));
            return Err(ServeError::Path { path, cause });
        }
        Err(error) => return Err(failed("cannot create the folder", error)),
    }
    let probe = path.join(format!(".writable-{}", std::process::id()));
    // A new file: an existing one, or the target of a link, is never touched.
    std::fs::File::create_new(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(|error| failed("the folder is not writable", error))
}

/// Explains a missing permission by the owner of the folder.
fn owner_hint(path: &Path, error: &std::io::Error) -> String {
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|found| found.uid());
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let existing = path.ancestors().find_map(|folder| Some((folder, owner(folder)?)));
    match (existing, owner(Path::new("/proc/self"))) {
        (Some((folder, owner)), Some(ours)) => {
            format!("; {} belongs to user {owner}, and this is user {ours}", folder.display())
        }
        _ => String::new(),
    }
}

pub(super) fn check_open_files(config: &Config) -> Result<(), ServeError> {
    let limit = ring::raise_open_files();
    let inbound: u64 = config.cores.iter().map(|core| core.connections_max as u64).sum();
    let shards = config.cores.len() as u64;
    let needed = inbound
        + shards * (config.pool.connections_max as u64 + FILES_PER_SHARD)
        + limits::CONTROL_CONNECTIONS_MAX as u64;
    if limit < needed {
        return Err(ServeError::OpenFiles { limit, needed });
    }
    Ok(())
}

fn reserve(config: &Config) -> Result<Vec<Reservation>, ServeError> {
    let one = |listener: &crate::config::Listener| {
        reserve_patiently(listener.address).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    " (another program, or another Ringpost, listens there)"
                }
                std::io::ErrorKind::PermissionDenied => {
                    " (ports below 1024 need CAP_NET_BIND_SERVICE)"
                }
                std::io::ErrorKind::AddrNotAvailable => " (no interface has this address)",
                _ => "",
            };
            ServeError::Listen { address: listener.address, cause: format!("{error}{hint}") }
        })
    };
    config.listeners.iter().map(one).collect()
}

/// After a kill, the kernel needs a moment to release what the rings of the old process held, such
/// as its listening sockets. The wait is logged at once.
fn reserve_patiently(address: SocketAddr) -> std::io::Result<Reservation> {
    let began = ring::now();
    let mut logged = false;
    loop {
        match ring::reserve(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && ring::now().saturating_duration_since(began) < ADDRESS_WAIT =>
            {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%address, within = ?ADDRESS_WAIT, "address in use, waiting");
                }
                std::thread::sleep(ADDRESS_RETRY);
            }
            result => return result,
        }
    }
}

/// Removes the socket that an earlier relay left at `path`; never any other file.
pub(super) fn remove_socket(path: &Path) -> std::io::Result<()> {
    match replaceable_socket(path)? {
        true => std::fs::remove_file(path),
        false => Ok(()),
    }
}

/// Whether there is a socket at `path`; `Err` if there is another file.
pub(super) fn replaceable_socket(path: &Path) -> std::io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(true),
        Ok(_) => Err(std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "there is a file that is not a socket; remove it, or set control.socket to another \
             path",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The control socket, for the relay's user and one group. A stale one is removed, which is safe
/// because the spool's lock is held.
fn bind_socket(control: &config::Control) -> Result<UnixListener, ServeError> {
    let path = &*control.socket;
    let failed = |error: std::io::Error| ServeError::Path {
        path: path.to_owned(),
        cause: format!("cannot open the control socket: {error}"),
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_folder(folder)?;
    }
    remove_socket(path).map_err(failed)?;
    let socket = UnixListener::bind(path).map_err(failed)?;
    if let Some(name) = &control.group {
        give_to_group(path, name)
            .map_err(|cause| ServeError::Path { path: path.to_owned(), cause })?;
    }
    let owner_and_group = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, owner_and_group).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

/// The group that `control.group` names.
pub(super) fn group(name: &str) -> Result<nix::unistd::Group, String> {
    nix::unistd::Group::from_name(name)
        .map_err(|error| format!("control.group {name:?} cannot be looked up: {error}"))?
        .ok_or_else(|| format!("control.group: there is no group {name:?} on this machine"))
}

fn give_to_group(path: &Path, name: &str) -> Result<(), String> {
    let group = group(name)?;
    std::os::unix::fs::chown(path, None, Some(group.gid.as_raw())).map_err(|error| {
        format!(
            "control.group: cannot change the socket's group to {name:?}: {error}; the relay's \
             user must be a member of it"
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn control(path: &Path) -> config::Control {
        config::Control { socket: path.to_owned(), ..config::Control::default() }
    }

    #[test]
    fn the_control_socket_replaces_only_a_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(bind_socket(&control(&path)).unwrap());
        drop(bind_socket(&control(&path)).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let error = bind_socket(&control(&path)).unwrap_err().to_string();
        assert!(error.contains("not a socket") && error.contains("control.sock"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let link = folder.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(bind_socket(&control(&link)).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_check_for_a_writable_folder_touches_no_file_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(".writable");
        std::fs::write(&own, "precious").unwrap();
        create_folder(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
