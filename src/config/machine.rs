//! What defaults take from the machine that the relay runs on.

use super::unit;
use std::net::{IpAddr, SocketAddr};

/// Properties of the machine, used as defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host name.
    pub host_name: String,
    /// The CPUs that this process may use, in ascending order.
    pub cpus: Vec<usize>,
    /// The name servers of `/etc/resolv.conf`, in its order.
    pub dns_servers: Vec<SocketAddr>,
}

/// Number of name servers that the C library uses (resolv.conf(5)).
const RESOLV_CONF_SERVERS_MAX: usize = 3;

impl Machine {
    /// A machine with default properties.
    pub(super) fn unknown() -> Machine {
        Machine { host_name: "localhost".into(), cpus: vec![0], dns_servers: Vec::new() }
    }

    /// The machine that this process runs on.
    pub fn this() -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let host_name = text("/proc/sys/kernel/hostname").trim().to_string();
        Machine {
            host_name: if host_name.is_empty() { "localhost".into() } else { host_name },
            cpus: cpus_allowed(&text("/proc/self/status")),
            dns_servers: name_servers(&text("/etc/resolv.conf")),
        }
    }
}

/// `Cpus_allowed_list: 0-3,8` of proc_pid_status(5); if that is missing, as many CPUs as available.
fn cpus_allowed(status: &str) -> Vec<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let listed = line.and_then(|list| unit::read_cpu_list(list.trim()).ok());
    listed.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get());
        (0..count).collect()
    })
}

fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    };
    resolv_conf.lines().filter_map(server).take(RESOLV_CONF_SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_machine_is_read_from_what_the_kernel_writes() {
        let status = "Name:\tx\nCpus_allowed:\t1f\nCpus_allowed_list:\t0-2,5\nMems:\t0\n";
        assert_eq!(cpus_allowed(status), [0, 1, 2, 5]);
        assert!(!cpus_allowed("").is_empty());
        assert!(!Machine::this().cpus.is_empty());
    }

    #[test]
    fn name_servers_come_from_resolv_conf_in_its_order() {
        let text = "# x\nsearch example.org\nnameserver 192.0.2.1\nnameserver  ::1 \n\
                    nameserver fe80::1%eth0\noptions ndots:1\nnameserver\n; nameserver 192.0.2.9\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}
