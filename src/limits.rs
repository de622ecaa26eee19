//! Every bound that no configuration key sets, with its unit and its reason.

/// Longest domain name, in bytes (RFC 5321 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Longest local-part, in bytes (RFC 5321 4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest path with its brackets, in bytes (RFC 5321 4.5.3.1.3).
pub const PATH_BYTES_MAX: usize = 256;
