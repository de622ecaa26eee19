//! Notifies the service manager (sd_notify(3)) that the relay is ready, and that it stops.
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`; without it nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The relay is ready.
pub(super) const READY: &str = "READY=1";
/// The relay is stopping.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Sends `state`, if there is a service manager. A failure is only logged: it is no reason not to
/// run.
pub(super) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, ?socket, state, "cannot notify the service manager");
    }
}

/// A leading `@` in the name stands for the zero byte of an abstract socket.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_manager_gets_the_state_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), READY).unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(READY.as_bytes()));

        let name = format!("ringpost-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), STOPPING).unwrap();
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(STOPPING.as_bytes()));
    }
}
