//! The cache of TLS sessions with servers, for shorter handshakes. A session that a server refused
//! to resume is forgotten. It knows no connections.

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls_pki_types::ServerName;
use std::sync::atomic::{AtomicBool, Ordering};

/// The sessions of one shard for one TLS profile.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: ClientSessionMemoryCache,
    /// Whether a session was taken since [`Sessions::watch`]. Each handshake of a shard starts
    /// within one call, so this is about that call.
    taken: AtomicBool,
}

impl Sessions {
    /// A cache for at most `max` servers.
    pub(super) fn new(max: usize) -> Sessions {
        Sessions { kept: ClientSessionMemoryCache::new(max), taken: AtomicBool::new(false) }
    }

    /// Call before a handshake starts.
    pub(super) fn watch(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }

    /// Whether the handshake that has started since then offers a session.
    pub(super) fn was_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Forgets the session with a server that refused to resume it: the next handshake is full.
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
