//! The event log: one JSON line for each thing that happened to mail.
#![allow(missing_docs)]
