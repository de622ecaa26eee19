//! The sessions of one thread: open, send messages, and record the result of each.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::LocalSet;

use super::connection::{Connection, NotOpened};
use super::{Notes, Shared};
use crate::id::Id;
use crate::ledger::Ledger;

/// Wait before a connection is tried again, so that a relay that is down costs little.
const RECONNECT: Duration = Duration::from_millis(25);
/// Accepted ids wait at most this long for the ledger.
const FLUSH: Duration = Duration::from_millis(10);

/// The progress of a session: what a broken connection means for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is no message in progress.
    Between,
    /// The content has not begun: the relay cannot have accepted it.
    Envelope,
    /// The content has begun: it is not known whether the relay has accepted it.
    Content,
}

/// The result of a message.
enum Outcome {
    Accepted {
        recipients: u32,
        latency: Duration,
    },
    /// Answered at this step with this code.
    Refused(&'static str, u16),
    /// The connection broke at this step.
    Lost(&'static str),
}

/// Runs all sessions of a thread until they end, until `hard`, or until `stop`.
pub async fn sessions(
    shared: &Arc<Shared>,
    count: u32,
    hard: tokio::time::Instant,
    mut stop: watch::Receiver<bool>,
) -> Result<Notes, String> {
    let notes = Rc::new(RefCell::new(Notes::new()?));
    let mut ledger = shared.ledger.as_deref().map(Ledger::open).transpose()?;
    let phases: Vec<Rc<Cell<Phase>>> =
        (0..count).map(|_| Rc::new(Cell::new(Phase::Between))).collect();
    let local = LocalSet::new();
    let mut joined = tokio::task::JoinSet::new();
    for phase in &phases {
        let session =
            Session { shared: shared.clone(), notes: notes.clone(), phase: phase.clone() };
        joined.spawn_local_on(session.run(), &local);
    }
    let mut trouble = Ok(());
    let mut flush = tokio::time::interval(FLUSH);
    local
        .run_until(async {
            loop {
                tokio::select! {
                    next = joined.join_next() => match next {
                        None => break,
                        Some(Err(failed)) => { trouble = Err(format!("session: {failed}")); break }
                        Some(Ok(())) => {}
                    },
                    _ = flush.tick(), if ledger.is_some() => {
                        trouble = write(&notes, &mut ledger);
                        if trouble.is_err() { break }
                    }
                    () = tokio::time::sleep_until(hard) => break,
                    changed = stop.changed() => if changed.is_err() || *stop.borrow() { break },
                }
            }
        })
        .await;
    joined.abort_all();
    drop(local);
    trouble?;
    write(&notes, &mut ledger)?;
    for phase in &phases {
        match phase.get() {
            Phase::Between => {}
            Phase::Envelope => fail(shared, &notes, "cut short by the end of the load"),
            Phase::Content => drop(shared.tally.unknown.fetch_add(1, Ordering::Relaxed)),
        }
    }
    Ok(notes.replace(Notes::new()?))
}

fn write(notes: &RefCell<Notes>, ledger: &mut Option<Ledger>) -> Result<(), String> {
    let lines = &mut notes.borrow_mut().lines;
    if let (Some(ledger), false) = (ledger, lines.is_empty()) {
        ledger.append(lines)?;
        lines.clear();
    }
    Ok(())
}

fn fail(shared: &Shared, notes: &RefCell<Notes>, what: &str) {
    shared.tally.failed.fetch_add(1, Ordering::Relaxed);
    notes.borrow_mut().fail(what);
}

struct Session {
    shared: Arc<Shared>,
    notes: Rc<RefCell<Notes>>,
    phase: Rc<Cell<Phase>>,
}

impl Session {
    async fn run(self) {
        let mut buffers = Buffers::default();
        // Bounded: by the number of messages, by the time, and without --retry-connect by the
        // first connection that is not opened.
        while !self.shared.done() {
            let mut connection = match Connection::open(self.shared.to).await {
                Ok(connection) => connection,
                Err(why) => {
                    let what = match why {
                        NotOpened::Broken(what) => what,
                        NotOpened::Refused(step, code) => format!("{step} {code}"),
                    };
                    self.notes.borrow_mut().fail(&what);
                    if !self.shared.retry_connect {
                        return;
                    }
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            };
            self.shared.tally.connections.fetch_add(1, Ordering::Relaxed);
            if !self.converse(&mut connection, &mut buffers).await {
                tokio::time::sleep(RECONNECT).await;
            }
        }
    }

    /// Sends the messages of one connection; false when it ended early.
    async fn converse(&self, connection: &mut Connection, buffers: &mut Buffers) -> bool {
        for _ in 0..self.shared.messages_per_session {
            let Some(number) = self.shared.next() else { break };
            if !self.wait_for_turn(number).await {
                break;
            }
            self.shared.tally.attempted.fetch_add(1, Ordering::Relaxed);
            self.phase.set(Phase::Envelope);
            let outcome = self.message(connection, buffers, number).await;
            let content = self.phase.replace(Phase::Between) == Phase::Content;
            match outcome {
                Outcome::Accepted { recipients, latency } => {
                    self.accepted(number, recipients, latency);
                }
                Outcome::Refused(step, code) => {
                    fail(&self.shared, &self.notes, &format!("{step} {code}"));
                    let usable = code != 421 && connection.send(b"RSET\r\n").await.is_some();
                    if !usable || connection.code().await != Some(250) {
                        return false;
                    }
                }
                Outcome::Lost(step) if content => {
                    self.shared.tally.unknown.fetch_add(1, Ordering::Relaxed);
                    self.notes.borrow_mut().fail(&format!("{step}: connection lost (unknown)"));
                    return false;
                }
                Outcome::Lost(step) => {
                    fail(&self.shared, &self.notes, &format!("{step}: connection lost"));
                    return false;
                }
            }
        }
        // A lost QUIT is harmless.
        if connection.send(b"QUIT\r\n").await.is_some() {
            connection.code().await;
        }
        true
    }

    /// With a rate, message n is due n/rate seconds after the start; false when the time is over
    /// before.
    async fn wait_for_turn(&self, number: u64) -> bool {
        let Some(rate) = self.shared.rate else { return true };
        let due = self.shared.tally.start + Duration::from_secs_f64(number as f64 / rate);
        if due > self.shared.deadline {
            return false;
        }
        tokio::time::sleep_until(tokio::time::Instant::from_std(due)).await;
        true
    }

    async fn message(
        &self,
        connection: &mut Connection,
        buffers: &mut Buffers,
        number: u64,
    ) -> Outcome {
        let id = Id { run: self.shared.run, number };
        buffers.fill(&self.shared, id);
        let start = Instant::now();
        let envelope = if self.shared.pipeline && connection.pipelining {
            pipelined(connection, buffers).await
        } else {
            stepwise(connection, buffers).await
        };
        let recipients = match envelope {
            Ok(recipients) => recipients,
            Err(outcome) => return outcome,
        };
        self.phase.set(Phase::Content);
        if connection.send(&buffers.content).await.is_none() {
            return Outcome::Lost("content");
        }
        match connection.code().await {
            Some(250) => Outcome::Accepted { recipients, latency: start.elapsed() },
            Some(code) => Outcome::Refused("end", code),
            None => Outcome::Lost("end"),
        }
    }

    fn accepted(&self, number: u64, recipients: u32, latency: Duration) {
        let tally = &self.shared.tally;
        tally.accepted.fetch_add(1, Ordering::Relaxed);
        tally.accepted_recipients.fetch_add(u64::from(recipients), Ordering::Relaxed);
        let since = tally.start.elapsed().as_micros() as u64;
        tally.last_micros.fetch_max(since, Ordering::Relaxed);
        let notes = &mut *self.notes.borrow_mut();
        notes.latency.saturating_record(latency.as_micros() as u64);
        notes.accepted.push((number, recipients));
        if self.shared.ledger.is_some() {
            let id = Id { run: self.shared.run, number };
            // Writing to a vector does not fail.
            let _ = writeln!(notes.lines, "{id} {recipients}");
        }
    }
}

/// The bytes to send for one message; reused for the next.
#[derive(Default)]
struct Buffers {
    /// MAIL, each RCPT, and DATA, one after the other.
    commands: Vec<u8>,
    /// Where each command ends.
    ends: Vec<usize>,
    content: Vec<u8>,
}

impl Buffers {
    fn fill(&mut self, shared: &Shared, id: Id) {
        let out = &mut self.commands;
        out.clear();
        self.ends.clear();
        self.content.clear();
        // Writing to a vector does not fail.
        let _ = match shared.from.rsplit_once('@') {
            Some((local, host)) if shared.verp => {
                write!(out, "MAIL FROM:<{local}+{id}@{host}>\r\n")
            }
            _ => write!(out, "MAIL FROM:<{}>\r\n", shared.from),
        };
        self.ends.push(out.len());
        let domains = shared.domains.len().max(1) as u64;
        for recipient in 0..shared.recipients {
            let place = ((id.number + u64::from(recipient)) % domains) as usize;
            let domain = shared.domains.get(place).map_or("sink.test", String::as_str);
            let _ = write!(out, "RCPT TO:<u{recipient}.{id}@{domain}>\r\n");
            self.ends.push(out.len());
        }
        out.extend_from_slice(b"DATA\r\n");
        self.ends.push(out.len());
        let to = format!("u0.{id}@{}", shared.domains.first().map_or("sink.test", |d| d));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        shared.maker.write(&mut self.content, id, now.as_micros() as u64, to.as_bytes());
    }

    /// Number of RCPT commands.
    fn recipients(&self) -> usize {
        self.ends.len().saturating_sub(2)
    }
}

/// Sends the envelope at once (RFC 2920); returns the number of accepted recipients.
async fn pipelined(connection: &mut Connection, buffers: &Buffers) -> Result<u32, Outcome> {
    connection.send(&buffers.commands).await.ok_or(Outcome::Lost("mail"))?;
    let mail = connection.code().await.ok_or(Outcome::Lost("mail"))?;
    let mut refused = (mail != 250).then_some(("mail", mail));
    let mut taken = 0;
    for _ in 0..buffers.recipients() {
        let code = connection.code().await.ok_or_else(|| lost_after(refused, "rcpt"))?;
        match code {
            250 | 251 => taken += 1,
            _ => refused = refused.or(Some(("rcpt", code))),
        }
    }
    let data = connection.code().await.ok_or_else(|| lost_after(refused, "data"))?;
    if data == 354 && taken == 0 {
        // RFC 2920 3.1: the server accepted DATA without a recipient; send it an empty message.
        connection.send(b".\r\n").await.ok_or(Outcome::Lost("data"))?;
        connection.code().await.ok_or(Outcome::Lost("data"))?;
    }
    match refused {
        Some((step, code)) if taken == 0 => Err(Outcome::Refused(step, code)),
        _ if data == 354 => Ok(taken),
        _ => Err(Outcome::Refused("data", data)),
    }
}

/// A relay that sends 421 and closes has answered: the code says more than the broken connection.
fn lost_after(refused: Option<(&'static str, u16)>, step: &'static str) -> Outcome {
    match refused {
        Some((step, 421)) => Outcome::Refused(step, 421),
        _ => Outcome::Lost(step),
    }
}

/// Sends the envelope command by command; returns the number of accepted recipients.
async fn stepwise(connection: &mut Connection, buffers: &Buffers) -> Result<u32, Outcome> {
    let last = buffers.ends.len().saturating_sub(1);
    let mut begin = 0;
    let mut taken = 0;
    let mut refused = 0;
    for (place, end) in buffers.ends.iter().enumerate() {
        let step = match place {
            0 => "mail",
            _ if place == last => "data",
            _ => "rcpt",
        };
        if place == last && taken == 0 {
            return Err(Outcome::Refused("rcpt", refused));
        }
        let command = buffers.commands.get(begin..*end).unwrap_or_default();
        connection.send(command).await.ok_or(Outcome::Lost(step))?;
        let code = connection.code().await.ok_or(Outcome::Lost(step))?;
        begin = *end;
        match (step, code) {
            ("mail", 250) | ("data", 354) => {}
            ("rcpt", 250 | 251) => taken += 1,
            ("rcpt", 421) => return Err(Outcome::Refused(step, code)),
            ("rcpt", _) => refused = code,
            _ => return Err(Outcome::Refused(step, code)),
        }
    }
    Ok(taken)
}
