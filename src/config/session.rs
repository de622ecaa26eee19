//! `[session]`: the receiving side.

use super::declare::table;
use super::kinds::{GIB, KIB, MIB, count, days, duration, flag, hours, minutes, seconds, size};
use std::time::Duration;

table! {
    /// The receiving side of SMTP: limits, and what happens at them.
    pub struct Session {
        /// Size of a message, at most 7/8 of spool.segment_bytes, because a message is stored in
        /// one segment. A larger one is refused with 552 5.3.4, at MAIL if the client declares the
        /// size.
        message_bytes_max: u64 = size(50 * MIB, 64 * KIB..=2 * GIB);
        /// Recipients of one message. RFC 5321 4.5.3.1.8 demands at least 100. Further recipients
        /// are refused with 452 4.5.3, and the client sends them in a second transaction. This
        /// number times command_line_max may be at most 1/8 of spool.segment_bytes, because the
        /// envelope is stored in the segment too.
        recipients_max: usize = count(1000, 100..=10_000);
        /// Length of a command line with its CRLF. RFC 5321 4.5.3.1.4 demands at least 512;
        /// extensions lengthen MAIL and RCPT, DSN alone by some 600 bytes. A longer line is refused
        /// with 500 5.5.6.
        command_line_max: usize = size(2 * KIB, 512..=16 * KIB);
        /// Length of a line of content with its CRLF. RFC 5321 4.5.3.1.6 demands at least 1000, and
        /// real mail has longer lines: HTML is often written on one line. Folding such a line would
        /// change the content and break its signature, so it is sent unchanged. A message with a
        /// line longer than this is refused with 554 5.6.0.
        text_line_max: usize = size(64 * KIB, 1000..=2 * GIB);
        /// Refused commands since the session's last accepted message. Beyond it the session ends
        /// with 421 4.7.0. For users and for clients in access.relay_networks, refused recipients,
        /// messages without any accepted recipient, and temporary refusals (4xx) do not count: a
        /// mailing list may have any number of bad addresses.
        errors_max: u32 = count(20, 1..=1000);
        /// Commands that move no mail (NOOP, RSET, EHLO, HELO, VRFY, EXPN, HELP, ETRN) since the
        /// session's last accepted message. Beyond it the session ends with 421 4.7.0. Postfix
        /// calls it smtpd_junk_command_limit.
        junk_commands_max: u32 = count(100, 1..=1_000_000);
        /// Accept addresses from users and from clients in access.relay_networks in forms that RFC
        /// 5321 does not allow, as Postfix does for its mynetworks: without angle brackets, with
        /// spaces or doubled brackets around them, with a dot at the end of the domain, and with
        /// two dots in a row, or one at either end, in the local-part. They are relayed in the
        /// correct form: such a local-part is quoted, "a..b", which is the same address. If false,
        /// they are refused with 501, as from all other clients.
        lenient: bool = flag(true);
        /// With lenient, relay a local-part with such dots unchanged, as Postfix does, for
        /// receivers that do not recognize the quoted form. It violates RFC 5321, and strict
        /// servers refuse it.
        keep_odd_dots: bool = flag(false);
        /// Received fields in a message (RFC 5321 6.3 asks for at least 100). A message with more
        /// is in a loop and is refused with 554 5.4.6.
        received_max: u32 = count(100, 10..=1000);
        /// Messages in one session; 0 is no limit. Beyond it the session ends with 421 4.7.0. The
        /// reply to EHLO announces it, and recipients_max, as LIMITS (RFC 9422).
        messages_max: u32 = count(0, 0..=1_000_000);
        /// Answer VRFY with 252, because a relay knows no mailboxes; if false, with 502.
        vrfy: bool = flag(true);
        /// Longest time for which a client may have a message held (FUTURERELEASE, RFC 4865), where
        /// the listener allows it. A longer time is refused with 501 5.5.4. retry.expire counts
        /// from the end of that time.
        hold_max: Duration = duration(days(7), seconds(1)..=days(365));
        /// Wait for the next complete command line; RFC 5321 4.5.3.2.7 asks for at least 5 minutes.
        /// Then the session ends with 421 4.4.2.
        command_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Longest time without an accepted message, whatever else the client sends; the transfer
        /// of content does not count. Then the session ends with 421 4.4.2.
        idle_timeout: Duration = duration(minutes(30), seconds(1)..=days(7));
        /// Wait for more content. Then the session ends with 421 4.4.2.
        data_timeout: Duration = duration(minutes(5), seconds(1)..=hours(1));
        /// Least bytes of content in a second, on average over data_timeout; 0 is no limit. Below
        /// it, the session ends with 421 4.4.2. Here and for message_timeout, only the time counts
        /// in which the relay waits for the client.
        data_rate_min: u32 = count(100, 0..=1_000_000);
        /// Longest time for the content of one message. Then the session ends with 421 4.4.2.
        message_timeout: Duration = duration(hours(4), seconds(1)..=days(7));
        /// A TLS handshake, from its first byte to its last. Then the connection is closed.
        tls_timeout: Duration = duration(seconds(30), seconds(1)..=minutes(10));
        /// Connections from one address to one shard, for clients outside access.relay_networks.
        /// Further ones are refused with 421.
        connections_per_client: usize = count(50, 1..=1_000_000);
        /// Connections from one address to one shard, for clients in access.relay_networks. Further
        /// ones are refused with 421.
        connections_per_relay_client: usize = count(4096, 1..=1_000_000);
    }
}
