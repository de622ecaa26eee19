#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
