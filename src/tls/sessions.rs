//! TLS sessions with servers, for shorter handshakes: what may be taken up again, and what must be
//! forgotten because a server refused it. It knows no connections.

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls_pki_types::ServerName;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sessions of one shard with one way to authenticate.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: ClientSessionMemoryCache,
    /// A session was taken since [`Sessions::watch`]. Handshakes of a shard begin one after the
    /// other, each within one call, so this tells of that call.
    taken: AtomicBool,
}

impl Sessions {
    /// Of at most `max` servers.
    pub(super) fn new(max: usize) -> Sessions {
        Sessions { kept: ClientSessionMemoryCache::new(max), taken: AtomicBool::new(false) }
    }

    /// Before a handshake begins.
    pub(super) fn watch(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }

    /// After it has begun: whether it offers a session.
    pub(super) fn was_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// The server refused to take up a session: the next handshake is a full one.
    pub(super) fn forget(&self, server: &ServerName<'static>) {
        self.kept.remove_tls12_session(server);
        while self.kept.take_tls13_ticket(server).is_some() {}
    }

    fn noted<T>(&self, session: Option<T>) -> Option<T> {
        if session.is_some() {
            self.taken.store(true, Ordering::Relaxed);
        }
        session
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.noted(self.kept.tls12_session(server_name))
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.kept.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.noted(self.kept.take_tls13_ticket(server_name))
    }
}
