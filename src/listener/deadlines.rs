//! How long a client may take. *Pure.*
//!
//! | what | bound | how it is measured |
//! |---|---|---|
//! | a command as a whole | `session.command_timeout` | until its CRLF, however it is dripped |
//! | a session without mail | `session.idle_timeout` | since the last accepted message (1) |
//! | silence in content | `session.data_timeout` | since the last byte |
//! | slow content | `session.data_rate_min` | average over each `data_timeout` of waiting |
//! | a message's content | `session.message_timeout` | all waiting for it |
//!
//! 1. The time that content takes does not count.
//!
//! In content only the time counts in which the relay waits for the client: a full disk is not the
//! client's fault. Each bound that is passed ends the session with 421.

use crate::config;
use crate::session::Phase;
use crate::smtp::Reply;
use std::time::{Duration, Instant};

/// The clocks of one session.
pub(super) struct Deadlines {
    limits: Limits,
    /// Complete commands, as last seen.
    commands: u64,
    /// When the wait for the next command began.
    command_since: Instant,
    /// When the last message was accepted, or the session began; later by the time that content
    /// has taken since.
    idle_since: Instant,
    content: Option<Content>,
}

#[derive(Clone, Copy)]
struct Limits {
    command: Duration,
    idle: Duration,
    silence: Duration,
    rate_min: u64,
    message: Duration,
}

/// Content that is arriving.
struct Content {
    began: Instant,
    waited: Duration,
    silent: Duration,
    /// Since the average was last checked.
    window: Duration,
    window_bytes: u64,
}

impl Deadlines {
    pub(super) fn new(limits: &config::Session, now: Instant) -> Deadlines {
        Deadlines {
            limits: Limits {
                command: limits.command_timeout,
                idle: limits.idle_timeout,
                silence: limits.data_timeout,
                rate_min: limits.data_rate_min.into(),
                message: limits.message_timeout,
            },
            commands: 0,
            command_since: now,
            idle_since: now,
            content: None,
        }
    }

    /// A message was accepted.
    pub(super) fn accepted(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// How long to wait for input now; then to be asked again.
    ///
    /// # Errors
    /// A bound has passed: the reply for it.
    pub(super) fn left(
        &mut self,
        phase: Phase,
        commands: u64,
        now: Instant,
    ) -> Result<Duration, Reply> {
        let limits = self.limits;
        if commands != self.commands {
            self.commands = commands;
            self.command_since = now;
        }
        if phase == Phase::Command {
            if let Some(content) = self.content.take() {
                // Content that was accepted has moved it already.
                let passed = now.saturating_duration_since(content.began.max(self.idle_since));
                self.idle_since += passed;
                self.command_since = now;
            }
            let command = left(limits.command, now.saturating_duration_since(self.command_since));
            let idle = left(limits.idle, now.saturating_duration_since(self.idle_since));
            let command = command.ok_or(Reply::TIMED_OUT)?;
            return Ok(command.min(idle.ok_or(Reply::IDLE)?));
        }
        let content = self.content.get_or_insert(Content {
            began: now,
            waited: Duration::ZERO,
            silent: Duration::ZERO,
            window: Duration::ZERO,
            window_bytes: 0,
        });
        let silence = left(limits.silence, content.silent).ok_or(Reply::TIMED_OUT)?;
        let message = left(limits.message, content.waited).ok_or(Reply::MESSAGE_TIMED_OUT)?;
        let window = match left(limits.silence, content.window) {
            Some(window) => window,
            None => {
                let bytes_min = limits.rate_min.saturating_mul(limits.silence.as_secs());
                if content.window_bytes < bytes_min {
                    return Err(Reply::TOO_SLOW);
                }
                (content.window, content.window_bytes) = (Duration::ZERO, 0);
                limits.silence
            }
        };
        Ok(silence.min(message).min(window))
    }

    /// So many bytes were received after so long a wait.
    pub(super) fn received(&mut self, bytes: usize, waited: Duration) {
        if let Some(content) = &mut self.content {
            content.waited += waited;
            content.window += waited;
            content.window_bytes += bytes as u64;
            content.silent = if bytes == 0 { content.silent + waited } else { Duration::ZERO };
        }
    }
}

/// What is left of `limit`; `None` when that is nothing.
fn left(limit: Duration, passed: Duration) -> Option<Duration> {
    limit.checked_sub(passed).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The default limits.
    fn deadlines(began: Instant) -> Deadlines {
        Deadlines {
            limits: Limits {
                command: 300 * SECOND,
                idle: 1800 * SECOND,
                silence: 300 * SECOND,
                rate_min: 100,
                message: 14_400 * SECOND,
            },
            commands: 0,
            command_since: began,
            idle_since: began,
            content: None,
        }
    }

    /// A client that does something every `step`, until it is cut: after how long, and how.
    fn cut(
        phase: Phase,
        step: Duration,
        bytes: usize,
        commands_per_step: u64,
    ) -> Option<(Duration, Reply)> {
        let began = crate::ring::now();
        let mut deadlines = deadlines(began);
        let (mut passed, mut commands) = (Duration::ZERO, 0);
        let mut next = step;
        while passed < 100_000 * SECOND {
            match deadlines.left(phase, commands, began + passed) {
                Err(reply) => return Some((passed, reply)),
                Ok(left) if passed + left < next => {
                    passed += left;
                    deadlines.received(0, left);
                }
                Ok(_) => {
                    deadlines.received(bytes, next - passed);
                    passed = next;
                    next += step;
                    commands += commands_per_step;
                }
            }
        }
        None
    }

    #[test]
    fn each_row_of_the_table_holds() {
        let day = 86_400 * SECOND;
        for (phase, step, bytes, commands, expected) in [
            // Nothing at all; a byte a second of a command; a command every minute.
            (Phase::Command, day, 0, 0, Some((300, Reply::TIMED_OUT))),
            (Phase::Command, SECOND, 1, 0, Some((300, Reply::TIMED_OUT))),
            (Phase::Command, 60 * SECOND, 6, 1, Some((1800, Reply::IDLE))),
            // Nothing; a byte a second; 99 bytes a second; enough; enough, but for ever.
            (Phase::Content, day, 0, 0, Some((300, Reply::TIMED_OUT))),
            (Phase::Content, SECOND, 1, 0, Some((300, Reply::TOO_SLOW))),
            (Phase::Content, SECOND, 99, 0, Some((300, Reply::TOO_SLOW))),
            (Phase::Content, SECOND, 100, 0, Some((14_400, Reply::MESSAGE_TIMED_OUT))),
            (Phase::Content, 299 * SECOND, 64_000, 0, Some((14_400, Reply::MESSAGE_TIMED_OUT))),
            (Phase::Content, 301 * SECOND, 64_000, 0, Some((300, Reply::TIMED_OUT))),
        ] {
            let expected = expected.map(|(seconds, reply)| (seconds * SECOND, reply));
            assert_eq!(cut(phase, step, bytes, commands), expected, "{step:?} {bytes}");
        }
    }

    #[test]
    fn time_that_the_relay_takes_does_not_count_in_content() {
        let began = crate::ring::now();
        let mut deadlines = deadlines(began);
        for minute in 0..1000 {
            // A piece came at once, and the disk took a minute.
            let now = began + minute * 60 * SECOND;
            assert!(deadlines.left(Phase::Content, 0, now).is_ok(), "{minute}");
            deadlines.received(1000, Duration::ZERO);
        }
        // Nor does content count as idle.
        let end = began + 60_000 * SECOND;
        assert_eq!(deadlines.left(Phase::Command, 0, end), Ok(300 * SECOND));
    }

    #[test]
    fn an_accepted_message_begins_the_time_without_mail_anew() {
        let began = crate::ring::now();
        let mut deadlines = deadlines(began);
        for round in 1..10 {
            let now = began + round * 1700 * SECOND;
            assert!(deadlines.left(Phase::Command, u64::from(round), now).is_ok());
            deadlines.accepted(now);
        }
        let now = began + 9 * 1700 * SECOND + 1799 * SECOND;
        assert_eq!(deadlines.left(Phase::Command, 99, now), Ok(SECOND));
        assert_eq!(deadlines.left(Phase::Command, 100, now + SECOND), Err(Reply::IDLE));
    }
}
