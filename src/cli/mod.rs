//! The command line: what was asked for. It knows no room but `config`.

pub mod arguments;
