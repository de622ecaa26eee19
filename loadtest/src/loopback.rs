//! Makes sure that this tool connects to this machine only.

use std::net::SocketAddr;

/// Reads `ADDRESS:PORT`; `localhost` stands for 127.0.0.1. Names are not looked up, because a name
/// server could answer with any address.
///
/// # Errors
/// Anything that is not a loopback address with a port.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match literal.parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Ok(address),
        Ok(_) => Err(format!("{text} is not a loopback address: the load stays on this machine")),
        Err(_) => Err(format!(
            "{text} is not a loopback address and port such as 127.0.0.1:2525 (names are not \
             looked up)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_this_machine() {
        for good in ["127.0.0.1:25", "127.9.9.9:25", "[::1]:25", "localhost:25"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:25", "[::]:25", "10.0.0.1:25", "127.0.0.1", "localhost", "a.test:25"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
