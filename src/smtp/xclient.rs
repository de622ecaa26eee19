//! XCLIENT (Postfix's XCLIENT_README): what a proxy says about its client. *Pure.*

use super::fault::CommandFault;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The attributes that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xclient {
    /// ADDR=; `None` when it was not given, or the proxy does not know it.
    pub address: Option<IpAddr>,
    /// PORT=.
    pub port: Option<u16>,
    /// LOGIN= with a name.
    pub login: bool,
}

/// Attributes that are accepted and ignored: the relay does not use them.
const IGNORED: [&str; 5] = ["NAME", "PROTO", "HELO", "DESTADDR", "DESTPORT"];

/// Placeholders for a value that the proxy does not know.
const UNKNOWN: [&str; 2] = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];

/// Reads the argument of XCLIENT.
pub fn read_xclient(argument: &str) -> Result<Xclient, CommandFault> {
    const FORM: CommandFault = CommandFault::Value("Syntax: XCLIENT attribute=value ...");
    const ADDRESS: CommandFault =
        CommandFault::Value("ADDR must be an IPv4 address, IPV6:address or [UNAVAILABLE]");
    const PORT: CommandFault =
        CommandFault::Value("PORT must be a number up to 65535, or [UNAVAILABLE]");
    const UNKNOWN_NAME: CommandFault = CommandFault::Value("Bad XCLIENT attribute name");
    let mut known = Xclient::default();
    let mut words = argument.split([' ', '\t']).filter(|word| !word.is_empty()).peekable();
    words.peek().ok_or(CommandFault::ArgumentMissing)?;
    for word in words {
        let (name, value) = word.split_once('=').ok_or(FORM)?;
        let is_unknown = UNKNOWN.iter().any(|unknown| unknown.eq_ignore_ascii_case(value));
        match name.to_ascii_uppercase().as_str() {
            "ADDR" if !is_unknown => known.address = Some(read_address(value).ok_or(ADDRESS)?),
            "PORT" if !is_unknown => known.port = Some(value.parse().map_err(|_| PORT)?),
            "LOGIN" if !is_unknown && !value.is_empty() => known.login = true,
            "ADDR" | "PORT" | "LOGIN" => {}
            name if IGNORED.contains(&name) => {}
            _ => return Err(UNKNOWN_NAME),
        }
    }
    Ok(known)
}

fn read_address(value: &str) -> Option<IpAddr> {
    match value.split_at_checked("IPV6:".len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPV6:") => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => value.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_proxy_names_its_client() {
        let xclient =
            |address: &str, port| Xclient { address: address.parse().ok(), port, login: false };
        for (argument, expected) in [
            ("ADDR=192.0.2.1 PORT=4321", xclient("192.0.2.1", Some(4321))),
            ("addr=ipv6:2001:db8::1", xclient("2001:db8::1", None)),
            ("NAME=spike.example ADDR=192.0.2.1 PROTO=ESMTP HELO=x", xclient("192.0.2.1", None)),
            ("ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL]", Xclient::default()),
            ("LOGIN=[UNAVAILABLE]", Xclient::default()),
            ("LOGIN=joe", Xclient { login: true, ..Xclient::default() }),
        ] {
            assert_eq!(read_xclient(argument), Ok(expected), "{argument}");
        }
        for argument in
            ["", "ADDR", "ADDR=2001:db8::1", "ADDR=x", "PORT=99999", "COLOUR=red", "ADDR="]
        {
            assert!(read_xclient(argument).is_err(), "{argument}");
        }
    }
}
