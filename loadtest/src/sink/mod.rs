//! The sink: accepts mail as fast as a relay can send it, or misbehaves as requested.
//!
//! Each thread has its own listener on the same port (SO_REUSEPORT), event loop and ledger
//! handle; they share the plan of misbehaviour and the arrivals.

mod arrivals;
mod session;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::cli::Behaviour;
use crate::ledger::Ledger;
use crate::misbehave::Plan;
use crate::progress;
pub use arrivals::{Arrivals, PAIRS_MAX, Report};

/// Connections of one thread at once; beyond it a new one is closed with 421.
const CONNECTIONS_MAX: usize = 20_000;
/// How often the existence of the file of `--defer-until-file` is checked.
const FILE_LOOK: Duration = Duration::from_millis(10);

/// The state that all sessions share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    arrivals: Arc<Arrivals>,
    seed: u64,
    connections: AtomicU64,
    chunking: bool,
    round_trip: Duration,
    defer_all: AtomicBool,
    defer_file: Option<PathBuf>,
}

impl Shared {
    fn look_for_file(&self) {
        if let Some(file) = &self.defer_file {
            self.defer_all.store(file.exists(), Ordering::Relaxed);
        }
    }
}

/// A running sink.
#[derive(Debug)]
pub struct Sink {
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The arrivals so far.
    pub arrivals: Arc<Arrivals>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// Starts the threads; when it returns, connections are accepted.
///
/// # Errors
/// The plan is not valid, the address is in use, or the ledger cannot be opened.
pub fn start(
    address: SocketAddr,
    behaviour: &Behaviour,
    ledger: Option<&Path>,
) -> Result<Sink, String> {
    let all = [&behaviour.refuse, &behaviour.defer, &behaviour.hangup];
    // Hang-ups first: they must not hide behind an answer.
    let rules = all.into_iter().rev().flatten().copied();
    let arrivals = Arc::new(Arrivals::new());
    let shared = Arc::new(Shared {
        plan: Plan::new(rules, &behaviour.delay)?,
        arrivals: arrivals.clone(),
        seed: behaviour.seed,
        connections: AtomicU64::new(0),
        chunking: !behaviour.no_chunking,
        round_trip: Duration::from_millis(behaviour.round_trip),
        defer_all: AtomicBool::new(false),
        defer_file: behaviour.defer_until_file.clone(),
    });
    shared.look_for_file();
    let (stop, stopped) = watch::channel(false);
    let bound = free(address)?;
    let mut threads = Vec::new();
    for thread in 0..behaviour.sink_threads.max(1) {
        let listener = listen(bound)?;
        let ledger = ledger.map(Ledger::open).transpose()?;
        let (shared, stopped) = (shared.clone(), stopped.clone());
        let named = std::thread::Builder::new().name(format!("sink-{thread}"));
        let handle = named.spawn(move || work(&shared, listener, ledger, stopped));
        threads.push(handle.map_err(|e| format!("thread: {e}"))?);
    }
    Ok(Sink { address: bound, arrivals, stop, threads })
}

/// The address with its chosen port, which is free at this moment. Without this check, a forgotten
/// sink could share the port and receive a part of the mail, which would be counted as lost.
fn free(address: SocketAddr) -> Result<SocketAddr, String> {
    let look = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a sink that has ended may linger on the port; a listener may not.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        std::net::TcpListener::from(socket).local_addr()
    };
    look().map_err(|e| format!("listen {address}: {e}"))
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, String> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().map_err(|e| format!("listen {address}: {e}"))
}

fn work(
    shared: &Arc<Shared>,
    listener: std::net::TcpListener,
    ledger: Option<Ledger>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let local = LocalSet::new();
    let accepting = async {
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(|e| format!("listen: {e}"))?;
        let ledger = std::rc::Rc::new(std::cell::RefCell::new(ledger));
        let mut sessions = tokio::task::JoinSet::new();
        let mut look = tokio::time::interval(FILE_LOOK);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if sessions.len() < CONNECTIONS_MAX => {
                        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                        let session = session::Session::new(stream, shared, &ledger, number);
                        sessions.spawn_local(session.run());
                    }
                    Ok((stream, _)) => {
                        // Best effort: a new socket has room for a line.
                        let _ = stream.try_write(b"421 4.3.2 too many connections\r\n");
                    }
                    // No descriptors: they are freed when sessions end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(ended) = sessions.join_next() => match ended {
                    Ok(result) => result?,
                    Err(failed) => return Err(format!("session: {failed}")),
                },
                _ = look.tick(), if shared.defer_file.is_some() => shared.look_for_file(),
                changed = stop.changed() => if changed.is_err() || *stop.borrow() {
                    return Ok(());
                },
            }
        }
    };
    progress::runtime()?.block_on(local.run_until(accepting))
}

impl Sink {
    /// Returns when `wanted` distinct recipients have got their message, or a thread has failed.
    pub async fn reached(&self, wanted: u64) {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while self.arrivals.arrived() < wanted && !self.threads.iter().any(|t| t.is_finished()) {
            look.tick().await;
        }
    }

    /// Ends all sessions and returns the result.
    ///
    /// # Errors
    /// A ledger could not be written, or a thread failed.
    pub fn stop(self) -> Result<Report, String> {
        // It fails only when all threads have ended, which is the goal.
        let _ = self.stop.send(true);
        for thread in self.threads {
            thread.join().map_err(|_| String::from("a sink thread failed"))??;
        }
        self.arrivals.report()
    }
}
