//! Every bound that no configuration key sets, with its unit and its reason.

/// Longest domain name, in bytes (RFC 5321 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Longest local-part, in bytes (RFC 5321 4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest path with its brackets, in bytes (RFC 5321 4.5.3.1.3).
pub const PATH_BYTES_MAX: usize = 256;

// --- dns ---

/// Largest answer over UDP that we ask for, in bytes: it fits every network path without
/// fragments, which can be forged (the value of DNS flag day 2020).
pub const DNS_UDP_BYTES_MAX: u16 = 1232;
/// Largest answer over TCP that is read, in bytes: enough for some 500 MX records. A lookup holds
/// this much memory while it reads.
pub const DNS_TCP_BYTES_MAX: usize = 16 * 1024;
/// Lookups of one shard that are in their quick time at once, each with a socket or two. More wait
/// for a quick slot.
pub const DNS_QUICK_LOOKUPS_MAX: usize = 256;
/// How long a lookup holds a quick slot, in milliseconds: most names are answered by then. One that
/// takes longer continues in a patient slot, so that silent names do not delay the others.
pub const DNS_QUICK_MILLIS: u64 = 250;
/// Lookups of one shard that are past their quick time at once, each with a socket or two.
pub const DNS_PATIENT_LOOKUPS_MAX: usize = 256;
/// Fresh lookups that wait for a quick slot. Beyond it the one that has waited longest fails.
pub const DNS_FRESH_WAITING_MAX: usize = 16 * 1024;
/// Slow lookups that wait for a patient slot. Beyond it the oldest of the names that were silent
/// before fails, or else the oldest of the others.
pub const DNS_SLOW_WAITING_MAX: usize = 2 * 1024;
/// Longest wait for an answer in the first of several rounds over the name servers, in
/// milliseconds: a lost datagram, or a server that is down, costs no more than this.
pub const DNS_FIRST_WAIT_MILLIS: u64 = 1000;
/// Longest time of one lookup with all retries and aliases, in seconds, whatever the settings allow
/// together.
pub const DNS_LOOKUP_SECONDS_MAX: u64 = 60;
/// Longest chain of CNAME records. Longer ones are mistakes or loops.
pub const DNS_ALIASES_MAX: usize = 8;
/// Records of one answer that are kept: bounds the memory of a cached answer. Of MX records, the
/// best are kept.
pub const DNS_RECORDS_MAX: usize = 64;
/// Datagrams that do not answer our query before it is repeated over TCP: an attacker may be trying
/// to guess port and id, one guess in each datagram.
pub const DNS_FOREIGN_MAX: usize = 32;
/// A name server that failed is asked after the others for this long, in seconds.
pub const DNS_SERVER_REST_SECONDS: u64 = 30;
/// Shortest time that an answer is cached, in seconds: a TTL of 0 would cause a query per message.
pub const DNS_TTL_SECONDS_MIN: u32 = 1;

// --- route ---

/// Domains of one shard that are routed at once, each with some 2 KB. Others wait, newest first. It
/// is much more than the number of slow DNS lookups that may wait: before that many are waiting, no
/// place becomes free, and after thousands of silent domains a new one would stand there for
/// seconds. It is no more than the fresh lookups that may wait, so that none of these fails.
pub const ROUTE_LOOKUPS_MAX: usize = 16 * 1024;

/// MX hosts of a destination that are used; the best ones. Large receivers have five.
pub const ROUTE_HOSTS_MAX: usize = 16;
/// Addresses of one host that are used, so that one host cannot displace the others.
pub const ROUTE_ADDRESSES_PER_HOST_MAX: usize = 8;
/// Addresses of a destination that one attempt may try.
pub const ROUTE_CANDIDATES_MAX: usize = 20;
/// Longest key of a site, in bytes: it is a label in metrics and listings.
pub const ROUTE_KEY_BYTES_MAX: usize = 200;
/// Domains whose site a shard caches; the one used longest ago is evicted.
pub const ROUTE_SITES_MAX: usize = 16 * 1024;

// --- delivery ---

/// Hosts of a site that may reach a transaction in one attempt; those that fail before are bounded
/// by `ROUTE_CANDIDATES_MAX`. Postfix has 2 (`smtp_mx_session_limit`): after a few, the next host
/// of a receiver gives the same reply as the first ones, and each costs a connection.
pub const ATTEMPT_SESSIONS_MAX: usize = 3;
/// Hosts of one attempt that its outcome names, the most informative ones: bounds memory and the
/// length of an event.
pub const ATTEMPT_HOSTS_SHOWN_MAX: usize = 8;

// --- spool ---

/// Rate at which the compactor moves records from old segments to the head, in bytes a second for
/// each shard. It is faster only while the spool uses twice the disk space that it should.
pub const SPOOL_MOVE_BYTES_PER_SECOND: usize = 32 << 20;
/// Bytes that the compactor moves in one commit: they may delay a 250.
pub const SPOOL_MOVE_STEP_BYTES: usize = 256 << 10;
/// Rate at which zeros are written to new segment files before mail is stored there, in bytes a
/// second for each shard.
pub const SPOOL_FILL_BYTES_PER_SECOND: u64 = 64 << 20;
/// Bytes of zeros that are written at once: a commit that needs the file may have to wait for them.
pub const SPOOL_FILL_STEP_BYTES: u64 = 1 << 20;

/// Pieces of streamed content that one shard reads at once: each needs a descriptor and memory for
/// the piece. Others wait; a read takes milliseconds.
pub const SPOOL_PIECES_READ_MAX: usize = 32;

// --- scheduler ---

/// Recipients of one message that are deferred at one site within this time, in seconds, are tried
/// again together: long enough for several transactions with one message.
pub const RETRY_SHARED_SECONDS: u64 = 5;
/// Messages whose due time is remembered for that. Beyond it, the oldest is forgotten, and its
/// next recipient gets a new due time.
pub const RETRY_SHARED_MAX: usize = 4096;

/// A message that cannot be loaded from the spool for a passing reason (no descriptor, no memory,
/// an error of the disk) is tried again after this, in seconds.
pub const POSTPONED_SECONDS: u64 = 10;

// --- the control socket ---

/// Connections to the control socket at once; further ones wait. Each takes a descriptor.
pub const CONTROL_CONNECTIONS_MAX: usize = 64;
/// A connection to the control socket that is idle for this long, in seconds, is closed.
pub const CONTROL_IDLE_SECONDS: u64 = 30;

// --- reports ---

/// Reports that one shard builds and stores at once: each holds a message and a report in memory
/// (at most some 2 MB, mostly 10 KB), and together they share a commit. Others wait, with only
/// their ids in memory.
pub const REPORTS_IN_FLIGHT_MAX: usize = 16;
/// Recipients of one message that fail within this time, in milliseconds, share a report: long
/// enough for the results of all its recipients, too short to be noticed by a sender.
pub const REPORT_WINDOW_MS: u64 = 2000;
/// A message that could not be read is tried again for its report after this, in seconds.
pub const REPORT_RETRY_SECONDS: u64 = 10;
/// When the disk is full, a report is tried again after this, in seconds.
pub const REPORT_STALL_SECONDS: u64 = 1;

const _: () = assert!(
    DNS_SLOW_WAITING_MAX + DNS_PATIENT_LOOKUPS_MAX + DNS_QUICK_LOOKUPS_MAX < ROUTE_LOOKUPS_MAX
);
const _: () = assert!(ROUTE_LOOKUPS_MAX <= DNS_FRESH_WAITING_MAX);
const _: () = assert!(ROUTE_HOSTS_MAX <= DNS_RECORDS_MAX);
const _: () = assert!(ROUTE_ADDRESSES_PER_HOST_MAX < ROUTE_CANDIDATES_MAX);
const _: () = assert!(DNS_UDP_BYTES_MAX as usize <= DNS_TCP_BYTES_MAX);
const _: () = assert!(DNS_TCP_BYTES_MAX <= u16::MAX as usize);
