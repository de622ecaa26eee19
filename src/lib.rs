//! Ringpost: a bulk outbound mail relay. One shard per core, io_uring underneath, 250 means
//! on disk.
//!
//! ```text
//! listener -> session -> intake -> spool -> scheduler -> route -> exchange -> pool -> delivery
//!               |  250 only after   ^                                            |
//!               |  the spool has it |                              done | retry | bounce
//!               +-------------------+--------------------------------------------+
//! ```
//!
//! A module imports only modules listed below it. `ARCHITECTURE.md` follows one message through
//! them.

pub mod cli;

pub mod control;
pub mod shard;

pub mod listener;
pub mod pool;

pub mod route;

pub mod dns;

pub mod bounce;
pub mod eml;
pub mod scheduler;

pub mod intake;

pub mod spool;

pub mod delivery;
pub mod session;

pub mod event;
pub mod smtp;

pub mod message;

pub mod credentials;
pub mod quota;

pub mod auth;
pub mod sasl;

pub mod tls;

pub mod ring;

pub mod timestamp;

pub mod config;
pub mod limits;
