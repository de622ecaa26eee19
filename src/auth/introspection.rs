//! Token introspection (RFC 7662 2): one POST to the authorization server, one answer in JSON. The
//! request blocks, so it runs on threads beside the shards.

use super::UsersError;
use crate::config::{Roots, Tokens, look_at_private};
use crate::sasl::{Secret, encode};
use crate::tls;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::Zeroizing;

/// Largest answer, in bytes; a usual one has some ten members.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Largest file with a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;
/// Idle connections that are kept for the next request, and for how long.
const IDLE_MAX: usize = 4;
const IDLE: Duration = Duration::from_secs(10);

/// A client of the introspection endpoint, with its own credentials.
pub(super) struct Introspection {
    agent: Agent,
    endpoint: Box<str>,
    authorization: Zeroizing<String>,
}

impl Introspection {
    /// Reads the secret and the trusted roots from their files.
    ///
    /// # Errors
    /// A file cannot be read, or its content is not valid.
    pub(super) fn open(tokens: &Tokens) -> Result<Introspection, UsersError> {
        let secret = read_secret(&tokens.client_secret_file)?;
        let is_secured = tokens.introspection_endpoint.starts_with("https:");
        let agent = Agent::config_builder()
            .timeout_global(Some(tokens.timeout))
            // No redirects, no proxy: a token is sent to the configured server only.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .http_status_as_error(false)
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .max_idle_age(IDLE)
            .user_agent("ringpost")
            .tls_config(if is_secured { secured(&tokens.roots)? } else { TlsConfig::default() })
            .build()
            .new_agent();
        // RFC 6749 2.3.1: both are form-encoded.
        let (id, secret) = (in_a_form(&tokens.client_id), in_a_form(secret.reveal()));
        let both = Secret::new(format!("{}:{}", &*id, &*secret));
        let authorization = format!("Basic {}", encode(both.reveal().as_bytes()));
        Ok(Introspection {
            agent,
            endpoint: tokens.introspection_endpoint.clone(),
            authorization: Zeroizing::new(authorization),
        })
    }

    /// Asks the server about `token` and returns its answer.
    ///
    /// # Errors
    /// There is no answer, or it does not follow RFC 7662: a text for the log.
    pub(super) fn ask(&self, token: &Secret) -> Result<Map<String, Value>, String> {
        let mut response = self
            .agent
            .post(&*self.endpoint)
            .header("Authorization", self.authorization.as_str())
            .header("Accept", "application/json")
            .send_form([("token", token.reveal()), ("token_type_hint", "access_token")])
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        match status {
            200 => {}
            401 | 403 => {
                let hint = "the server refuses our credentials; check client_id and \
                            client_secret_file";
                return Err(format!("HTTP status {status}: {hint}"));
            }
            _ => return Err(format!("HTTP status {status}")),
        }
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
        // The parser's error could quote secret content, so it is not shown.
        serde_json::from_slice(&body).map_err(|_| "the answer is not a JSON object".to_owned())
    }
}

fn secured(roots: &Roots) -> Result<TlsConfig, UsersError> {
    let roots = tls::root_certificates(roots)?;
    let roots: Vec<Certificate<'static>> =
        roots.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(tls::provider())
        .build())
}

fn read_secret(path: &Path) -> Result<Secret, UsersError> {
    let fault = |cause: String| UsersError::File { path: path.to_owned(), cause };
    let io_fault = |error: std::io::Error| {
        fault(format!(
            "{error}; auth.tokens.client_secret_file must name a file with the secret on one line"
        ))
    };
    if look_at_private(path).map_err(io_fault)?.len() > SECRET_BYTES_MAX {
        return Err(fault("larger than 4 KiB; expected one line with the secret".to_owned()));
    }
    let text = Secret::new(std::fs::read_to_string(path).map_err(io_fault)?);
    let line = text.reveal().trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(fault("expected one line with the secret".to_owned()));
    }
    Ok(Secret::new(line))
}

/// Encodes `text` as a value of application/x-www-form-urlencoded.
fn in_a_form(text: &str) -> Zeroizing<String> {
    let mut written = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        match byte {
            b' ' => written.push('+'),
            _ if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) => {
                written.push(char::from(byte));
            }
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rfc6749_2_3_1_id_and_secret_are_form_encoded() {
        assert_eq!(*in_a_form("a b:ü*"), "a+b%3A%C3%BC*");
    }

    #[test]
    fn a_secret_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |text: &str| {
            crate::config::write_private(&path, text);
            read_secret(&path).map(|secret| secret.reveal().to_owned())
        };
        assert_eq!(read("s3 cret\n").unwrap(), "s3 cret");
        assert_eq!(read("s3cret\r\n").unwrap(), "s3cret");
        for wrong in ["", "\n", "a\nb\n", &"a".repeat(5000)] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("secret: ") && error.contains("one line"), "{error}");
        }
        let missing = read_secret(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("auth.tokens.client_secret_file must name"), "{missing}");
    }
}
