//! What `tidy` allows and what it does not: the tables of the architecture.

/// Each module and the modules that it may import. A new module gets a row; a new edge is a
/// decision about the architecture, and belongs into ARCHITECTURE.md as well. An edge that is no
/// longer needed is taken out.
pub const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "auth",
            "config",
            "control",
            "credentials",
            "eml",
            "message",
            "ring",
            "sasl",
            "shard",
            "smtp",
            "spool",
            "tls",
        ],
    ),
    (
        "control",
        &[
            "auth",
            "config",
            "credentials",
            "event",
            "limits",
            "message",
            "pool",
            "quota",
            "ring",
            "shard",
            "spool",
            "tls",
        ],
    ),
    (
        "shard",
        &[
            "auth",
            "bounce",
            "config",
            "credentials",
            "dns",
            "event",
            "intake",
            "limits",
            "listener",
            "message",
            "pool",
            "quota",
            "ring",
            "route",
            "scheduler",
            "session",
            "spool",
            "tls",
        ],
    ),
    (
        "listener",
        &[
            "auth", "config", "event", "intake", "message", "quota", "ring", "sasl", "session",
            "smtp", "spool", "tls",
        ],
    ),
    (
        "pool",
        &[
            "config",
            "credentials",
            "delivery",
            "message",
            "ring",
            "route",
            "sasl",
            "scheduler",
            "smtp",
            "timestamp",
            "tls",
        ],
    ),
    ("route", &["config", "dns", "limits", "message", "ring", "timestamp"]),
    ("dns", &["config", "limits", "message", "ring"]),
    ("bounce", &["message", "smtp"]),
    ("eml", &["intake", "message", "ring", "smtp", "spool"]),
    ("scheduler", &["config", "limits", "message"]),
    ("intake", &["message", "quota", "smtp", "spool"]),
    ("spool", &["limits", "message", "ring"]),
    ("delivery", &["config", "limits", "message", "sasl", "smtp"]),
    ("session", &["config", "limits", "message", "sasl", "smtp"]),
    ("event", &["config", "message", "ring"]),
    ("smtp", &["limits", "message"]),
    ("message", &["timestamp"]),
    ("credentials", &[]),
    ("quota", &[]),
    ("auth", &["config", "ring", "sasl", "tls"]),
    ("sasl", &[]),
    ("tls", &["config", "ring"]),
    ("ring", &["timestamp"]),
    ("timestamp", &[]),
    ("config", &["limits"]),
    ("limits", &[]),
];

/// Modules of which every file is pure: bytes and the time in, decisions and bytes out. Elsewhere a
/// file is pure when its header says *Pure*.
pub const PURE: [&str; 8] =
    ["timestamp", "message", "smtp", "sasl", "session", "delivery", "bounce", "scheduler"];

/// What a pure file does not name, in an import or in its code: paths and all that is below them.
pub const OUTSIDE: [&str; 26] = [
    "crate::ring",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::os::fd",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "Instant::now",
    "SystemTime::now",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "getrandom",
    "socket2",
    "tokio",
    "libc",
    "nix",
];
/// The same, as a method.
pub const OUTSIDE_METHODS: [&str; 1] = ["to_socket_addrs"];

/// Clocks and chance that `ring` alone asks of the system: elsewhere a simulation could not decide
/// them.
pub const CLOCKS: [&str; 5] =
    ["Instant::now", "SystemTime::now", "getrandom", "RandomState", ".elapsed()"];

/// Words that do not stand in code, comments or documents: each has a standard one.
pub const BANNED: &[&str] = &[
    "himself",
    "herself",
    "nobody",
    "somebody",
    "anybody",
    "whom",
    "he",
    "his",
    "him",
    "hers",
    "she",
    "fate",
    "fates",
    "verdict",
    "verdicts",
    "visitor",
    "visitors",
    "hasten",
    "hastened",
    "lapsed",
    "unvouched",
    "mishap",
    "mishaps",
    "census",
    "stake",
    "stakes",
    "chore",
    "chores",
    "keeper",
];

/// Functions with more parameters than this (`self` apart) take a structure.
pub const PARAMETERS_MAX: usize = 6;
/// Functions with more, until they are changed: this list only shrinks.
pub const MANY_PARAMETERS: &[&str] = &[];

/// In these modules policy is asked by steps that are answered, not by callbacks.
pub const NO_BOXED_CALLBACKS: [&str; 2] = ["listener", "session"];
/// Files with boxed callbacks, until they are changed: this list only shrinks.
pub const BOXED_CALLBACKS: &[&str] = &[];

/// Files that begin the content of a message in the spool.
pub const DRAFTS: &[&str] = &["src/intake/mod.rs"];

/// In these modules state is a plain structure owned by one driver.
pub const NO_SHARED_CELLS: [&str; 2] = ["shard", "pool"];
/// The drivers, which hold that structure in a `RefCell` at their edge.
pub const DRIVERS: &[&str] =
    &["src/pool/connection.rs", "src/pool/exchange.rs", "src/pool/owner.rs", "src/shard/driver.rs"];

/// Pairs of files that import each other, until they are changed: this list only shrinks.
pub const MUTUAL: &[(&str, &str)] = &[];

pub const FILE_BYTES_MAX: usize = 36 * 1024;
