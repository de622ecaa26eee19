//! The driver's sockets, real or simulated: the calls of socket2 and of the driver that `ring`
//! makes. They go to the simulation when this thread is in one, else to the system.

use super::hosts::SELF;
use super::net::Shared;
use super::tcp::EndId;
use super::udp::send_from;
use super::{current, current_host};
use futures_lite::io::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

type Driven<T> = Result<T, glommio::GlommioError<()>>;

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A descriptor of a host.
struct Descriptor {
    net: Shared,
    host: usize,
}

impl Descriptor {
    fn take(net: &Shared, host: usize) -> io::Result<Descriptor> {
        net.borrow_mut().hosts.take_descriptor(host)?;
        Ok(Descriptor { net: Shared::clone(net), host })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.net.borrow_mut().hosts.give_descriptor_back(self.host);
    }
}

/// What a simulated socket has become.
#[derive(Clone, Copy)]
enum Use {
    New,
    Listener(usize),
    Stream(EndId),
    Datagrams(usize),
}

/// A simulated socket. It is closed when it is dropped.
pub(in super::super) struct Simulated {
    descriptor: Descriptor,
    domain: Domain,
    is_stream: bool,
    bound: Cell<Option<SocketAddr>>,
    used: Cell<Use>,
}

impl Simulated {
    fn new(descriptor: Descriptor, domain: Domain, is_stream: bool) -> Simulated {
        let used = Cell::new(Use::New);
        Simulated { descriptor, domain, is_stream, bound: Cell::new(None), used }
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let hosts = &mut self.descriptor.net.borrow_mut().hosts;
        if !hosts.has(self.descriptor.host, address.ip()) {
            return Err(error(libc::EADDRNOTAVAIL));
        }
        let mut address = address;
        if address.port() == 0 {
            address.set_port(hosts.choose_port());
        }
        self.bound.set(Some(address));
        Ok(())
    }

    fn listen(&self, backlog: i32) -> io::Result<()> {
        let address = self.bound.get().ok_or_else(|| error(libc::EINVAL))?;
        let backlog = usize::try_from(backlog).unwrap_or_default();
        let tcp = &mut self.descriptor.net.borrow_mut().tcp;
        self.used.set(Use::Listener(tcp.listen(self.descriptor.host, address, backlog)));
        Ok(())
    }

    fn connect(&self, to: SocketAddr) -> io::Result<()> {
        let net = &mut *self.descriptor.net.borrow_mut();
        let host = self.descriptor.host;
        let from = match self.bound.get() {
            Some(bound) => bound,
            None => {
                let source = net.hosts.source(host, to.ip())?;
                SocketAddr::new(source, net.hosts.choose_port())
            }
        };
        self.bound.set(Some(from));
        if self.is_stream {
            self.used.set(Use::Stream(net.tcp.connect(&mut net.hosts, host, from, to)));
            return Err(error(libc::EINPROGRESS));
        }
        self.used.set(Use::Datagrams(net.udp.open(host, from, Some(to))));
        Ok(())
    }

    fn local_address(&self) -> SocketAddr {
        let any: IpAddr = match self.domain {
            Domain::IPV4 => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.bound.get().unwrap_or(SocketAddr::new(any, 0))
    }

    fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let net = self.descriptor.net.borrow();
        match self.used.get() {
            Use::Stream(end) => net.tcp.addresses(end),
            Use::Datagrams(number) => {
                let (own, peer) = net.udp.addresses(number)?;
                peer.map(|peer| (own, peer)).ok_or_else(|| error(libc::ENOTCONN))
            }
            Use::New | Use::Listener(_) => Err(error(libc::ENOTCONN)),
        }
    }

    fn poll_receive(&self, into: &mut [u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let net = &mut *self.descriptor.net.borrow_mut();
        match self.used.get() {
            Use::Stream(end) => net.tcp.receive(end, into, waker),
            Use::Datagrams(number) => net.udp.poll_receive(number, waker).map_ok(|(_, bytes)| {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                count
            }),
            Use::New | Use::Listener(_) => Poll::Ready(Err(error(libc::ENOTCONN))),
        }
    }

    fn poll_send(&self, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let net = &mut *self.descriptor.net.borrow_mut();
        match self.used.get() {
            Use::Stream(end) => net.tcp.poll_send(&mut net.hosts, end, bytes, waker),
            Use::Datagrams(number) => Poll::Ready(net.udp.send(&mut net.hosts, number, bytes)),
            Use::New | Use::Listener(_) => Poll::Ready(Err(error(libc::ENOTCONN))),
        }
    }

    fn poll_accept(&self, waker: &Waker) -> Poll<io::Result<Simulated>> {
        let Descriptor { net: shared, host } = &self.descriptor;
        let net = &mut *shared.borrow_mut();
        let Use::Listener(number) = self.used.get() else {
            return Poll::Ready(Err(error(libc::EINVAL)));
        };
        net.tcp.poll_accept(&mut net.hosts, number, waker).map_ok(|end| {
            let descriptor = Descriptor { net: Shared::clone(shared), host: *host };
            let accepted = Simulated::new(descriptor, self.domain, true);
            accepted.used.set(Use::Stream(end));
            accepted
        })
    }

    fn shut_down(&self) -> io::Result<()> {
        let net = &mut *self.descriptor.net.borrow_mut();
        match self.used.get() {
            Use::Stream(end) => net.tcp.shut_down(&mut net.hosts, end),
            Use::Listener(number) => {
                net.tcp.close_listener(&mut net.hosts, number);
                Ok(())
            }
            Use::New | Use::Datagrams(_) => Err(error(libc::ENOTCONN)),
        }
    }

    fn reset(&self) {
        let net = &mut *self.descriptor.net.borrow_mut();
        if let Use::Stream(end) = self.used.get() {
            net.tcp.reset(&mut net.hosts, end);
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let net = &mut *self.descriptor.net.borrow_mut();
        match self.used.get() {
            Use::New => {}
            Use::Listener(number) => net.tcp.close_listener(&mut net.hosts, number),
            Use::Stream(end) => net.tcp.close(&mut net.hosts, end),
            Use::Datagrams(number) => net.udp.close(number),
        }
    }
}

/// A socket of socket2, or a simulated one.
pub(in super::super) enum Socket {
    Real(socket2::Socket),
    Simulated(Simulated),
}

fn ip(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| error(libc::EAFNOSUPPORT))
}

impl Socket {
    pub(in super::super) fn new(
        domain: Domain,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        match current() {
            Some(simulation) => {
                let descriptor = Descriptor::take(&simulation.net, current_host())?;
                Ok(Socket::Simulated(Simulated::new(descriptor, domain, kind == Type::STREAM)))
            }
            None => socket2::Socket::new(domain, kind, protocol).map(Socket::Real),
        }
    }

    pub(in super::super) fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.set_nonblocking(on),
            Socket::Simulated(_) => Ok(()),
        }
    }

    pub(in super::super) fn set_reuse_address(&self, on: bool) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.set_reuse_address(on),
            Socket::Simulated(_) => Ok(()),
        }
    }

    pub(in super::super) fn set_reuse_port(&self, on: bool) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.set_reuse_port(on),
            Socket::Simulated(_) => Ok(()),
        }
    }

    pub(in super::super) fn bind(&self, address: &SockAddr) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.bind(address),
            Socket::Simulated(socket) => socket.bind(ip(address)?),
        }
    }

    pub(in super::super) fn listen(&self, backlog: i32) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.listen(backlog),
            Socket::Simulated(socket) => socket.listen(backlog),
        }
    }

    pub(in super::super) fn connect(&self, address: &SockAddr) -> io::Result<()> {
        match self {
            Socket::Real(socket) => socket.connect(address),
            Socket::Simulated(socket) => socket.connect(ip(address)?),
        }
    }

    /// The next connection of a real listener.
    pub(in super::super) fn accept(&self) -> io::Result<(socket2::Socket, SockAddr)> {
        match self {
            Socket::Real(socket) => socket.accept(),
            Socket::Simulated(_) => Err(error(libc::EOPNOTSUPP)),
        }
    }

    pub(in super::super) fn local_addr(&self) -> io::Result<SockAddr> {
        match self {
            Socket::Real(socket) => socket.local_addr(),
            Socket::Simulated(socket) => Ok(socket.local_address().into()),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("descriptor", &self.as_raw_fd()).finish()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Real(socket) => socket.as_raw_fd(),
            Socket::Simulated(_) => -1,
        }
    }
}

/// The driver's listener, real or simulated.
pub(in super::super) enum TcpListener {
    Real(glommio::net::TcpListener),
    Simulated(Simulated),
}

impl From<Socket> for TcpListener {
    fn from(socket: Socket) -> TcpListener {
        match socket {
            // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
            Socket::Real(socket) => TcpListener::Real(unsafe {
                glommio::net::TcpListener::from_raw_fd(socket.into_raw_fd())
            }),
            Socket::Simulated(socket) => TcpListener::Simulated(socket),
        }
    }
}

impl TcpListener {
    pub(in super::super) async fn accept(&self) -> Driven<TcpStream> {
        match self {
            TcpListener::Real(listener) => listener.accept().await.map(TcpStream::Real),
            TcpListener::Simulated(socket) => {
                let accepted = poll_fn(|context| socket.poll_accept(context.waker())).await;
                Ok(TcpStream::Simulated(accepted?))
            }
        }
    }

    /// Ends an accept in flight, if this is a simulated listener.
    pub(in super::super) fn shut_down_simulated(&self) {
        if let TcpListener::Simulated(socket) = self {
            let _ = socket.shut_down();
        }
    }
}

/// The driver's stream, real or simulated.
pub(in super::super) enum TcpStream {
    Real(glommio::net::TcpStream),
    Simulated(Simulated),
}

impl From<Socket> for TcpStream {
    fn from(socket: Socket) -> TcpStream {
        match socket {
            // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership.
            Socket::Real(socket) => TcpStream::Real(unsafe {
                glommio::net::TcpStream::from_raw_fd(socket.into_raw_fd())
            }),
            Socket::Simulated(socket) => TcpStream::Simulated(socket),
        }
    }
}

impl TcpStream {
    pub(in super::super) fn peer_addr(&self) -> Driven<SocketAddr> {
        match self {
            TcpStream::Real(stream) => stream.peer_addr(),
            TcpStream::Simulated(socket) => Ok(socket.addresses()?.1),
        }
    }

    pub(in super::super) fn local_addr(&self) -> Driven<SocketAddr> {
        match self {
            TcpStream::Real(stream) => stream.local_addr(),
            TcpStream::Simulated(socket) => Ok(socket.addresses()?.0),
        }
    }

    pub(in super::super) fn set_nodelay(&self, on: bool) -> Driven<()> {
        match self {
            TcpStream::Real(stream) => stream.set_nodelay(on),
            TcpStream::Simulated(_) => Ok(()),
        }
    }

    pub(in super::super) async fn shutdown(&self, how: Shutdown) -> Driven<()> {
        match self {
            TcpStream::Real(stream) => stream.shutdown(how).await,
            TcpStream::Simulated(socket) => Ok(socket.shut_down()?),
        }
    }

    /// What has arrived, if this is a simulated stream.
    pub(in super::super) fn try_recv_simulated(
        &self,
        into: &mut [u8],
    ) -> Option<io::Result<Option<usize>>> {
        let TcpStream::Simulated(socket) = self else { return None };
        Some(match socket.poll_receive(into, Waker::noop()) {
            Poll::Pending => Ok(None),
            Poll::Ready(received) => received.map(Some),
        })
    }

    /// Resets a simulated connection.
    pub(in super::super) fn reset_simulated(&self) {
        if let TcpStream::Simulated(socket) = self {
            socket.reset();
        }
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            TcpStream::Real(stream) => stream.as_raw_fd(),
            TcpStream::Simulated(_) => -1,
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpStream::Real(stream) => Pin::new(stream).poll_read(context, into),
            TcpStream::Simulated(socket) => socket.poll_receive(into, context.waker()),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpStream::Real(stream) => Pin::new(stream).poll_write(context, bytes),
            TcpStream::Simulated(socket) => socket.poll_send(bytes, context.waker()),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpStream::Real(stream) => Pin::new(stream).poll_flush(context),
            TcpStream::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpStream::Real(stream) => Pin::new(stream).poll_close(context),
            TcpStream::Simulated(socket) => Poll::Ready(socket.shut_down()),
        }
    }
}

/// A UDP socket of a peer, which the program under test has no need of: it takes datagrams of all,
/// and sends them under any address.
pub(crate) struct Datagrams {
    descriptor: Descriptor,
    number: usize,
    address: SocketAddr,
}

impl Datagrams {
    /// A socket at `address` of the host of this task.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Datagrams> {
        let simulation = current().ok_or_else(|| io::Error::other("outside a simulation"))?;
        let host = current_host();
        debug_assert_ne!(host, SELF, "the program itself has no such socket");
        let descriptor = Descriptor::take(&simulation.net, host)?;
        let number = {
            let net = &mut *simulation.net.borrow_mut();
            if !net.hosts.has(host, address.ip()) {
                return Err(error(libc::EADDRNOTAVAIL));
            }
            net.udp.open(host, address, None)
        };
        Ok(Datagrams { descriptor, number, address })
    }

    /// The next datagram, and from where it says it comes.
    pub(crate) async fn recv(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        poll_fn(|context| {
            let net = &mut *self.descriptor.net.borrow_mut();
            net.udp.poll_receive(self.number, context.waker())
        })
        .await
    }

    /// Sends a datagram.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.forge(self.address, to, bytes);
    }

    /// Sends a datagram that says it comes from `from`.
    pub(crate) fn forge(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let net = &mut *self.descriptor.net.borrow_mut();
        send_from(&mut net.hosts, self.descriptor.host, (from, to), bytes);
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.descriptor.net.borrow_mut().udp.close(self.number);
    }
}
