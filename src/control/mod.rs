//! The control plane: starts and stops the shards, and answers the operator, off the hot path.
//!
//! One ordinary thread with a tokio runtime. It communicates with shards by channels only; if it
//! stalls, mail still flows. It must not know sessions or segments.
//!
//! - `start`: from a checked configuration to running shards.
//! - `http`: the server on the control socket, a Unix socket.
//! - `connections`: limits the connections to it.
//! - `client`: the client of that socket, for the command line.
//! - `reload`: reloads the configuration and the files that it names.
//! - `service_manager`: notifies systemd.

mod client;
mod connections;
mod http;
mod preflight;
mod reload;
mod service_manager;
mod start;

pub use client::{RequestError, request};
pub use preflight::{Findings, live, preflight};
use start::ServeError;

use crate::config::{Config, Origin};
use crate::ring::Sender;
use crate::shard::Request;
use connections::Connections;
use reload::{ConfigReload, Read};
use start::{Running, STOP_GRACE};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A shard whose mailbox is full is asked to stop again after this.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// After a second signal, the shards have this much longer: one without open transactions needs
/// less to end in order.
const STOP_MOMENT: Duration = Duration::from_millis(500);

/// Runs the relay until it is asked to stop. At SIGHUP the configuration is read again from
/// `origin`.
///
/// # Errors
/// The relay cannot start, a shard ended by a fault, or a spool had failed.
pub fn serve(config: Config, origin: Origin) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    let result = runtime.block_on(start_and_control(config, origin));
    // A start that was abandoned still runs.
    runtime.shutdown_background();
    result
}

/// Signals are handled before anything starts, so that a stop never kills a relay that serves
/// already, and need not wait for one that is still reading a large spool.
async fn start_and_control(config: Config, origin: Origin) -> Result<(), ServeError> {
    let mut signals = signals()?;
    let starting = tokio::task::spawn_blocking(move || start::start(config));
    tokio::select! {
        biased;
        running = starting => {
            let running = running.map_err(|error| ServeError::Runtime(error.to_string()))??;
            control(running, signals, origin).await
        }
        _ = signals.0.recv() => abandoned(),
        _ = signals.1.recv() => abandoned(),
    }
}

/// Ends a start early. That is safe at any point: all acknowledged mail is on disk.
fn abandoned() -> Result<(), ServeError> {
    tracing::info!("stopped while starting");
    Ok(())
}

async fn control(running: Running, signals: Signals, origin: Origin) -> Result<(), ServeError> {
    let (mut terminate, mut interrupt, mut hang_up) = signals;
    let socket = tokio::net::UnixListener::from_std(running.socket)
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    let reload = ConfigReload::new(&running.config, running.live_tls);
    let read = reload::spawn(reload, running.reloaders, origin)
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    let stopping = http::Stopping::default();
    let router = http::router(running.requests.clone(), running.config, stopping.clone());
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(Connections::new(socket), router).await {
            tracing::error!(%error, "control socket closed");
        }
    });

    let mut ended = running.ended;
    let mut looks = tokio::time::interval(reload::LOOK);
    service_manager::notify(service_manager::READY);
    let mut result = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            result = &mut ended => break Some(result),
            _ = hang_up.recv() => {
                running.events.reopen();
                read.request(Read::Again);
            },
            _ = looks.tick() => read.request(Read::Changed),
        }
    };
    if result.is_none() {
        stopping.begin();
        service_manager::notify(service_manager::STOPPING);
        tracing::info!(within = ?running.stop_within, "stopping: transactions may finish");
        let late = tokio::time::sleep(running.stop_within + STOP_GRACE);
        let asking = request_stop(&running.requests);
        result = tokio::select! {
            result = &mut ended => Some(result),
            never = asking => never,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            () = late => None,
        };
        if result.is_none() {
            // A relay without open transactions ends now anyway.
            let moment = tokio::time::timeout(STOP_MOMENT, &mut ended).await;
            result = moment.ok();
        }
    }
    server.abort();
    let _ = start::remove_socket(&running.socket_path);
    match result {
        Some(Ok(Ok(()))) => {
            running.events.shutdown(STOP_GRACE);
            tracing::info!("stopped");
            match running.failed_spools.all() {
                Some(failed) => Err(ServeError::SpoolFailed(failed)),
                None => Ok(()),
            }
        }
        Some(Ok(Err(shards))) => {
            running.events.shutdown(STOP_GRACE);
            Err(ServeError::ShardEnded(shards.join("; ")))
        }
        // All acknowledged mail is on disk; the client still has the rest.
        Some(Err(_)) | None => {
            tracing::warn!("stopped at once: open transactions are aborted");
            Ok(())
        }
    }
}

/// SIGTERM, SIGINT and SIGHUP.
type Signals =
    (tokio::signal::unix::Signal, tokio::signal::unix::Signal, tokio::signal::unix::Signal);

fn signals() -> Result<Signals, ServeError> {
    let listen = |kind| signal(kind).map_err(|error| ServeError::Runtime(error.to_string()));
    let stops = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok((stops.0, stops.1, listen(SignalKind::hangup())?))
}

/// Asks all shards to stop, repeatedly until each has received it; does not return.
async fn request_stop<T>(requests: &[Sender<Request>]) -> T {
    let mut left: Vec<&Sender<Request>> = requests.iter().collect();
    loop {
        left.retain(|shard| shard.try_send(Request::Stop).is_err());
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Asks each shard once. Fails for one that has ended or whose mailbox is full.
fn request_stop_of_all(requests: &[Sender<Request>]) {
    for shard in requests {
        let _ = shard.try_send(Request::Stop);
    }
}
