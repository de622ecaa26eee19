//! A listening address, reserved once for all shards.

use std::io;
use std::net::SocketAddr;

#[cfg(not(test))]
use socket2::Socket;
use socket2::{Domain, Protocol, Type};

#[cfg(test)]
use super::simulation::socket::Socket;

/// Keeps an address for the listeners of this process. Each shard's [`Listener`](super::Listener)
/// binds it as well; no client connects to the reservation itself.
#[derive(Debug)]
pub struct Reservation {
    /// Bound, so that the port stays with this process, but not listening.
    _socket: Socket,
    address: SocketAddr,
}

impl Reservation {
    /// The address with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reserves `address` before the shards start; port 0 lets the kernel choose one.
///
/// `AddrInUse` when another process listens there already, even with SO_REUSEPORT: otherwise
/// another instance of the relay would silently share the port, and receive a part of the mail. A
/// client that connects during this check may be reset.
pub fn reserve(address: SocketAddr) -> io::Result<Reservation> {
    let test = socket(address)?;
    test.bind(&address.into())?;
    test.listen(1)?;
    let address = own_address(&test)?;
    drop(test);
    // Without SO_REUSEADDR if possible, so that the check of a second instance fails even while
    // this one does not listen yet. Old connections of a program that did not share the port may
    // make it necessary.
    let kept = keep(address, false).or_else(|_| keep(address, true))?;
    Ok(Reservation { _socket: kept, address })
}

/// Binds for sharing, without listening.
fn keep(address: SocketAddr, over_old_connections: bool) -> io::Result<Socket> {
    let kept = socket(address)?;
    kept.set_reuse_address(over_old_connections)?;
    kept.set_reuse_port(true)?;
    kept.bind(&address.into())?;
    Ok(kept)
}

/// A listening socket that shares its port with those of other shards.
pub(super) fn listen(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let listening = socket(address)?;
    listening.set_reuse_port(true)?;
    listening.bind(&address.into())?;
    listening.listen(backlog)?;
    Ok(listening)
}

/// The address to which a socket is bound.
pub(super) fn own_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an IP socket"))
}

/// A TCP socket that may be bound while connections of an earlier process are in TIME_WAIT.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}
