//! The client of a running relay's control socket, for the command line.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing listens on the socket.
    #[error("{path}: no relay runs here ({cause})")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// This user may not use the socket.
    #[error("{path}: {cause}: run this as root or as the user of the relay")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// The relay answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the relay's answer is incomplete: {0}")]
    Broken(String),
}

/// Requests `target` (`/sites`) and passes each line of the answer to `line`.
///
/// # Errors
/// See [`RequestError`].
pub fn request(
    socket: &Path,
    target: &str,
    mut line: impl FnMut(&str),
) -> Result<(), RequestError> {
    let broken = |error: &dyn std::fmt::Display| RequestError::Broken(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(&error))?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket).await.map_err(|cause| not_asked(socket, cause))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let request = hyper::Request::get(target)
            .header("host", "ringpost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let response =
            in_time(sender.send_request(request)).await?.map_err(|error| broken(&error))?;
        let status = response.status();
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = in_time(body.frame()).await? {
            let frame = frame.map_err(|error| broken(&error))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if status.is_success()
                && let Some(end) = memchr::memrchr(b'\n', &pending)
            {
                let rest = pending.split_off(end + 1);
                String::from_utf8_lossy(&pending).lines().for_each(&mut line);
                pending = rest;
            }
        }
        let text = String::from_utf8_lossy(&pending);
        if status.is_success() {
            text.lines().for_each(line);
            Ok(())
        } else {
            Err(RequestError::Refused(text.trim().to_owned()))
        }
    })
}

/// The relay goes on with its answer within this time: a shard that is silent has 10 s.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, RequestError> {
    tokio::time::timeout(ANSWER_WAIT, answer).await.map_err(|_| {
        RequestError::Broken(format!("it says nothing for {} s", ANSWER_WAIT.as_secs()))
    })
}

fn not_asked(socket: &Path, cause: std::io::Error) -> RequestError {
    let path = socket.to_owned();
    match cause.kind() {
        std::io::ErrorKind::PermissionDenied => RequestError::Forbidden { path, cause },
        _ => RequestError::NotRunning { path, cause },
    }
}
