//! What the reply to EHLO says that the server can do (RFC 5321 4.1.1.1).

use crate::sasl::Mechanism;
use crate::smtp::Response;

/// The keywords that matter to a sender. All unset after HELO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870): the largest message in bytes; `Some(0)` when it names no limit.
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034). Codes are read whether or not it is offered.
    pub enhanced_status_codes: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtp_utf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub binary_mime: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// AUTH (RFC 4954): the mechanisms that are known here.
    pub auth: Vec<Mechanism>,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// MT-PRIORITY (RFC 6710), whatever profile it names.
    pub mt_priority: bool,
    /// DELIVERBY (RFC 2852): the shortest time that it takes with R, in seconds; 0 when it names
    /// none.
    pub deliver_by: Option<u32>,
    /// LIMITS RCPTMAX (RFC 9422): recipients in one transaction.
    pub recipients_max: Option<u32>,
    /// LIMITS MAILMAX: transactions on one connection.
    pub mails_max: Option<u32>,
    /// Not of the reply: we have logged in there since, and it has not refused AUTH= of MAIL.
    pub logged_in: bool,
}

impl Capabilities {
    /// Reads the lines after the first, which is a greeting. Unknown keywords and parameters that
    /// cannot be read are passed over.
    pub(super) fn of(response: Response<'_>) -> Capabilities {
        let mut found = Capabilities::default();
        for line in response.lines().skip(1) {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            // `SIZE=n` with an equals sign was the form of an early draft; some still write it.
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                "SIZE" => {
                    // More digits than a number of 64 bits has is no limit that we could reach.
                    found.size = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(0));
                }
                "8BITMIME" => found.eight_bit_mime = true,
                "ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                "SMTPUTF8" => found.smtp_utf8 = true,
                "CHUNKING" => found.chunking = true,
                "BINARYMIME" => found.binary_mime = true,
                "REQUIRETLS" => found.require_tls = true,
                "STARTTLS" => found.starttls = true,
                "AUTH" => found.auth.extend(words.filter_map(Mechanism::of)),
                "DSN" => found.dsn = true,
                "MT-PRIORITY" => found.mt_priority = true,
                "DELIVERBY" => {
                    // RFC 2852 3: extension tokens may follow behind commas.
                    let shortest = words.next().and_then(|word| word.split(',').next());
                    let shortest = shortest.and_then(|word| word.parse().ok());
                    found.deliver_by = Some(shortest.unwrap_or(0));
                }
                "LIMITS" => found.limits(line),
                _ => {}
            }
        }
        found
    }

    fn limits(&mut self, line: &str) {
        for word in line.split_ascii_whitespace().skip(1) {
            let Some((name, value)) = word.split_once('=') else { continue };
            // RFC 9422 3: limits are positive.
            let Some(value) = value.parse().ok().filter(|&value: &u32| value > 0) else { continue };
            match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => self.recipients_max = Some(value),
                "MAILMAX" => self.mails_max = Some(value),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::smtp::ResponseReader;

    fn of(reply: &str) -> Capabilities {
        let mut reader = ResponseReader::default();
        reader.read(reply.as_bytes()).unwrap();
        Capabilities::of(reader.response())
    }

    #[test]
    fn keywords_are_read_in_either_case_and_the_greeting_line_is_none() {
        let found = of("250-PIPELINING\r\n250-pipelining\r\n250-Size 1000\r\n250-8bitMIME\r\n\
             250-SMTPUTF8 ignored\r\n250-CHUNKING\r\n250-STARTTLS\r\n250-DSN\r\n\
             250-AUTH LOGIN X plain\r\n250-X-ELSE y\r\n\
             250-BINARYMIME\r\n250-REQUIRETLS\r\n250-MT-PRIORITY MIXER\r\n\
             250-LIMITS RCPTMAX=50 MAILMAX=7 RCPTDOMAINMAX=1 X\r\n250 ENHANCEDSTATUSCODES\r\n");
        let expected = Capabilities {
            pipelining: true,
            size: Some(1000),
            eight_bit_mime: true,
            enhanced_status_codes: true,
            smtp_utf8: true,
            chunking: true,
            binary_mime: true,
            starttls: true,
            require_tls: true,
            auth: vec![Mechanism::Login, Mechanism::Plain],
            dsn: true,
            mt_priority: true,
            deliver_by: None,
            recipients_max: Some(50),
            mails_max: Some(7),
            logged_in: false,
        };
        assert_eq!(found, expected);
        assert_eq!(of("250 PIPELINING\r\n"), Capabilities::default());
    }

    #[test]
    fn rfc2852_3_a_shortest_time_may_be_named_and_tokens_follow_it() {
        for (line, shortest) in [
            ("DELIVERBY", Some(0)),
            ("deliverby 240", Some(240)),
            ("DELIVERBY 240,x,y", Some(240)),
            ("DELIVERBY ,x", Some(0)),
            ("DELIVERBY x", Some(0)),
            ("X-DELIVERBY", None),
        ] {
            assert_eq!(of(&format!("250-hi\r\n250 {line}\r\n")).deliver_by, shortest, "{line}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_read_is_no_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            assert_eq!(of(&format!("250-hi\r\n250 {line}\r\n")).size, Some(0), "{line}");
        }
        assert_eq!(of("250-hi\r\n250 SIZE=5\r\n").size, Some(5));
        assert_eq!(of("250-hi\r\n250 LIMITS RCPTMAX=0\r\n").recipients_max, None);
    }
}
