//! `[delivery]`: the sending side.

use super::declare::table;
use super::kinds::{count, duration, hours, minutes, seconds};
use std::time::Duration;

table! {
    /// The sending side of SMTP. The timeouts are those of RFC 5321 4.5.3.2; when one expires, the
    /// recipients of the transaction are deferred, and tried again as [retry] says.
    pub struct Delivery {
        /// Wait for a TCP connection. Then the next host of the site is tried.
        connect_timeout: Duration = duration(seconds(30), seconds(1)..=minutes(10));
        /// A TLS handshake, from its first byte to its last.
        tls_timeout: Duration = duration(minutes(1), seconds(1)..=minutes(10));
        /// Wait for the greeting.
        greeting_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Wait for the reply to EHLO, HELO, RSET or QUIT.
        hello_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Wait for the reply to MAIL.
        mail_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Wait for the reply to RCPT.
        recipient_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Wait for the 354 after DATA.
        data_timeout: Duration = duration(minutes(2), seconds(1)..=hours(1));
        /// Wait until the server accepts the next block of content.
        content_timeout: Duration = duration(minutes(3), seconds(1)..=hours(1));
        /// Wait for the reply to the end of the content. It is the longest timeout, because the
        /// server may already have accepted the message, and would get it twice.
        end_of_data_timeout: Duration = duration(minutes(10), seconds(1)..=hours(1));
        /// Recipients in one transaction. A server must accept 100 (RFC 5321 4.5.3.1.8).
        recipients_max: usize = count(100, 1..=1000);
    }
}
