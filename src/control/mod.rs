//! The control plane: starts and stops the shards, and answers the operator, off the hot path.
//!
//! One ordinary thread with a tokio runtime. It talks to shards by channels only; if it stalls,
//! mail still flows. It must not know sessions or segments.
//!
//! - `start`: from a checked configuration to running shards.
//! - `http`: what is asked over the operator's Unix socket.
//! - `ask`: the asking side, for the command line.

mod ask;
mod http;
mod start;

pub use ask::{AskError, ask};
pub use start::ServeError;

use crate::config::Config;
use crate::ring::Sender;
use crate::shard::Request;
use start::Running;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The shards have this much longer than `control.stop_within` before the process ends anyway.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs the relay until it is told to stop.
///
/// # Errors
/// When it cannot start, or a shard ended by a fault.
pub fn serve(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    let result = runtime.block_on(start_and_control(config));
    // A start that was given up still runs.
    runtime.shutdown_background();
    result
}

/// Signals are listened to before anything starts: a relay that serves already must not be cut by a
/// stop, and one that reads a large spool must not keep it waiting.
async fn start_and_control(config: Config) -> Result<(), ServeError> {
    let mut signals = signals()?;
    let starting = tokio::task::spawn_blocking(move || start::start(config));
    tokio::select! {
        biased;
        running = starting => {
            let running = running.map_err(|error| ServeError::Runtime(error.to_string()))??;
            control(running, signals).await
        }
        _ = signals.0.recv() => given_up(),
        _ = signals.1.recv() => given_up(),
    }
}

/// What is acknowledged is on disk, so a start may end anywhere.
fn given_up() -> Result<(), ServeError> {
    tracing::info!("stopped while starting");
    Ok(())
}

async fn control(running: Running, signals: Signals) -> Result<(), ServeError> {
    let (mut terminate, mut interrupt) = signals;
    let socket = tokio::net::UnixListener::from_std(running.socket)
        .map_err(|error| ServeError::Runtime(error.to_string()))?;
    let router = http::router(running.requests.clone());
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(socket, router).await {
            tracing::error!(%error, "the operator's socket is closed");
        }
    });

    let mut ended = running.ended;
    let mut result = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        result = &mut ended => Some(result),
    };
    if result.is_none() {
        tracing::info!(within = ?running.stop_within, "stopping: transactions may finish");
        request_stop(&running.requests);
        let late = tokio::time::sleep(running.stop_within + STOP_GRACE);
        result = tokio::select! {
            result = &mut ended => Some(result),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            () = late => None,
        };
    }
    server.abort();
    let _ = std::fs::remove_file(&running.socket_path);
    match result {
        Some(Ok(Ok(()))) => {
            running.events.shutdown(STOP_GRACE);
            tracing::info!("stopped");
            Ok(())
        }
        Some(Ok(Err(shards))) => {
            running.events.shutdown(STOP_GRACE);
            Err(ServeError::ShardEnded(shards.join("; ")))
        }
        // What is acknowledged is on disk; the rest is the sender's still.
        Some(Err(_)) | None => {
            tracing::warn!("stopped at once: open transactions are cut");
            Ok(())
        }
    }
}

/// SIGTERM and SIGINT.
type Signals = (tokio::signal::unix::Signal, tokio::signal::unix::Signal);

fn signals() -> Result<Signals, ServeError> {
    let listen = |kind| signal(kind).map_err(|error| ServeError::Runtime(error.to_string()));
    Ok((listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?))
}

fn request_stop(requests: &[Sender<Request>]) {
    for (shard, requests) in requests.iter().enumerate() {
        if requests.try_send(Request::Stop).is_err() {
            tracing::error!(shard, "the shard does not take the request to stop");
        }
    }
}
