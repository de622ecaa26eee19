//! The server side of SMTP as a sink needs it: PIPELINING, CHUNKING, 8BITMIME, SIZE; it checks the
//! syntax only as far as the count needs it. Replies to commands that arrive together are sent
//! together.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Shared;
use crate::content::Checker;
use crate::id::{Pair, id_of_sender};
use crate::ledger::Ledger;
use crate::misbehave::{Act, STEPS, Step};

/// A line longer than this ends the session: nothing sends such lines.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Recipients in one transaction; beyond it 452.
const RECIPIENTS_MAX: usize = 10_000;
/// Commands after a refused greeting before the sink hangs up.
const REFUSED_COMMANDS_MAX: u32 = 100;

/// One connection.
pub struct Session {
    stream: TcpStream,
    shared: Arc<Shared>,
    ledger: Rc<RefCell<Option<Ledger>>>,
    rng: fastrand::Rng,
    input: Vec<u8>,
    out: Vec<u8>,
    transaction: Option<Transaction>,
    content: Option<Checker>,
    chunk: Option<Chunk>,
}

/// The rest of a BDAT chunk.
struct Chunk {
    bytes: usize,
    last: bool,
    handling: Handling,
}

/// What happens to the content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handling {
    Taken,
    /// No recipient is left.
    NoRecipients,
    /// Refused or deferred as planned.
    Planned(Act),
}

/// From MAIL to the final dot.
#[derive(Default)]
struct Transaction {
    /// Recipients that are from the source.
    pairs: Vec<Pair>,
    /// All accepted recipients.
    recipients: usize,
}

/// How a session continues.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// Send what is written, then close.
    Close,
    /// Close at once.
    HangUp,
}

impl Session {
    pub fn new(
        stream: TcpStream,
        shared: &Arc<Shared>,
        ledger: &Rc<RefCell<Option<Ledger>>>,
        number: u64,
    ) -> Self {
        let seed = shared.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        shared.arrivals.connected();
        Self {
            stream,
            shared: shared.clone(),
            ledger: ledger.clone(),
            rng: fastrand::Rng::with_seed(seed),
            input: Vec::with_capacity(16 * 1024),
            out: Vec::with_capacity(512),
            transaction: None,
            content: None,
            chunk: None,
        }
    }

    /// Serves until either side closes. A failure of the peer ends the session; a failure of the
    /// ledger is an error, because then the count is no longer exact.
    pub async fn run(mut self) -> Result<(), String> {
        // Avoids a useless latency of milliseconds.
        let _ = self.stream.set_nodelay(true);
        if self.greet().await != Flow::On {
            return Ok(());
        }
        loop {
            let flow = self.lines().await?;
            if !self.out.is_empty() && !self.shared.round_trip.is_zero() {
                tokio::time::sleep(self.shared.round_trip).await;
            }
            if flow == Flow::HangUp || self.flush().await.is_none() || flow == Flow::Close {
                return Ok(());
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Ok(());
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                _ => return Ok(()),
            }
        }
    }

    async fn greet(&mut self) -> Flow {
        match self.step(Step::Connect).await {
            Act::Go => {}
            Act::HangUp => {
                // A reset, not an orderly end.
                let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                return Flow::HangUp;
            }
            Act::Refuse(code) | Act::Defer(code) => {
                self.reply(code, "not now");
                self.flush().await;
                return Flow::Close;
            }
        }
        match self.step(Step::Greeting).await {
            Act::Go => self.out.extend_from_slice(b"220 sink.test ESMTP\r\n"),
            Act::HangUp => {
                self.out.extend_from_slice(b"220 si");
                self.flush().await;
                return Flow::HangUp;
            }
            Act::Refuse(code) | Act::Defer(code) => {
                self.reply(code, "no service here");
                return self.wait_for_quit().await;
            }
        }
        if self.flush().await.is_some() { Flow::On } else { Flow::HangUp }
    }

    /// RFC 5321 3.1: after a refused greeting the server waits for QUIT and answers all other
    /// commands with 503.
    async fn wait_for_quit(&mut self) -> Flow {
        for _ in 0..REFUSED_COMMANDS_MAX {
            if self.flush().await.is_none() {
                break;
            }
            self.input.clear();
            if !matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                break;
            }
            if self.input.to_ascii_uppercase().starts_with(b"QUIT") {
                self.out.extend_from_slice(b"221 2.0.0 bye\r\n");
                self.flush().await;
                break;
            }
            self.out.extend_from_slice(b"503 5.5.1 no service here\r\n");
        }
        Flow::Close
    }

    /// Handles all complete lines that have arrived.
    async fn lines(&mut self) -> Result<Flow, String> {
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let mut flow = Flow::On;
        while flow == Flow::On {
            if self.chunk.is_some() {
                let taken;
                (flow, taken) = self.chunk(rest).await?;
                rest = rest.get(taken..).unwrap_or_default();
                if taken == 0 && self.chunk.is_some() {
                    break;
                }
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else { break };
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            flow = match &mut self.content {
                Some(_) if line == b".\r\n" => self.end_of_data().await?,
                // RFC 5321 4.5.2: a leading dot is removed.
                Some(checker) => {
                    checker.line(line.strip_prefix(b".").unwrap_or(line));
                    Flow::On
                }
                None => self.command(line.trim_ascii_end()).await?,
            };
        }
        let used = input.len() - rest.len();
        self.input = input;
        self.input.drain(..used);
        Ok(flow)
    }

    async fn command(&mut self, line: &[u8]) -> Result<Flow, String> {
        let verb = line.get(..4).unwrap_or(line).to_ascii_uppercase();
        Ok(match verb.as_slice() {
            b"EHLO" | b"HELO" => {
                let text = match (verb == b"EHLO", self.shared.chunking) {
                    (true, true) => {
                        "250-sink.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n\
                         250 SIZE 104857600\r\n"
                    }
                    (true, false) => {
                        "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n\
                         250 SIZE 104857600\r\n"
                    }
                    (false, _) => "250 sink.test\r\n",
                };
                match self.step(Step::Ehlo).await {
                    Act::Go => self.say(text),
                    act => self.misbehave(act),
                }
            }
            b"MAIL" => self.mail(line).await?,
            b"RCPT" => self.rcpt(line).await?,
            b"DATA" => self.data().await?,
            b"BDAT" if self.shared.chunking => self.bdat(line).await?,
            b"RSET" => {
                self.transaction = None;
                self.content = None;
                self.say("250 2.0.0 ok\r\n")
            }
            b"NOOP" => self.say("250 2.0.0 ok\r\n"),
            b"QUIT" => {
                self.say("221 2.0.0 bye\r\n");
                Flow::Close
            }
            _ => self.say("502 5.5.1 unknown\r\n"),
        })
    }

    async fn mail(&mut self, line: &[u8]) -> Result<Flow, String> {
        if self.transaction.is_some() {
            return Ok(self.say("503 5.5.1 nested MAIL\r\n"));
        }
        let sender = path(line);
        match self.step(Step::Mail).await {
            Act::Go => {
                self.transaction = Some(Transaction::default());
                Ok(self.say("250 2.1.0 ok\r\n"))
            }
            act => {
                if let (Act::Refuse(_), Some(id)) = (act, id_of_sender(sender)) {
                    self.refused(&[Pair { id, recipient: Pair::ALL }])?;
                }
                Ok(self.misbehave(act))
            }
        }
    }

    async fn rcpt(&mut self, line: &[u8]) -> Result<Flow, String> {
        if self.transaction.is_none() {
            return Ok(self.say("503 5.5.1 MAIL first\r\n"));
        }
        if self.shared.defer_all.load(Ordering::Relaxed) {
            self.shared.arrivals.act("defer rcpt by file");
            return Ok(self.say("450 4.2.0 not now\r\n"));
        }
        let pair = Pair::parse_address(path(line));
        let act = self.step(Step::Rcpt).await;
        if act != Act::Go {
            if let (Act::Refuse(_), Some(pair)) = (act, pair) {
                self.refused(&[pair])?;
            }
            return Ok(self.misbehave(act));
        }
        match &mut self.transaction {
            Some(transaction) if transaction.recipients < RECIPIENTS_MAX => {
                transaction.recipients += 1;
                transaction.pairs.extend(pair);
                Ok(self.say("250 2.1.5 ok\r\n"))
            }
            _ => Ok(self.say("452 4.5.3 too many recipients\r\n")),
        }
    }

    async fn data(&mut self) -> Result<Flow, String> {
        if self.transaction.as_ref().is_none_or(|t| t.recipients == 0) {
            return Ok(self.say("554 5.5.1 no valid recipients\r\n"));
        }
        match self.step(Step::Data).await {
            Act::Go => {}
            act => return self.whole_transaction(act),
        }
        self.out.extend_from_slice(b"354 go on\r\n");
        match self.step(Step::Content).await {
            Act::Go => {
                self.content = Some(Checker::new());
                Ok(Flow::On)
            }
            act => {
                // The 354 is sent and some content is received before the sink hangs up.
                if self.flush().await.is_some() {
                    let mut some = Vec::with_capacity(256);
                    let _ = self.stream.read_buf(&mut some).await;
                }
                let flow = self.whole_transaction(act)?;
                Ok(if flow == Flow::On { Flow::Close } else { flow })
            }
        }
    }

    /// The BDAT command: decides what is done with its bytes.
    async fn bdat(&mut self, line: &[u8]) -> Result<Flow, String> {
        let words = std::str::from_utf8(line).unwrap_or_default();
        let mut words = words.split_ascii_whitespace().skip(1);
        let Some(bytes) = words.next().and_then(|word| word.parse().ok()) else {
            // The end of the chunk is not known.
            self.out.extend_from_slice(b"501 5.5.4 how many bytes?\r\n");
            return Ok(Flow::Close);
        };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let none_left = self.transaction.as_ref().is_none_or(|t| t.recipients == 0);
        let mut handling = Handling::NoRecipients;
        if !none_left {
            let act = match self.step(Step::Data).await {
                Act::Go => self.step(Step::Content).await,
                act => act,
            };
            handling = match act {
                Act::Go => Handling::Taken,
                Act::HangUp => return self.whole_transaction(act),
                Act::Refuse(_) | Act::Defer(_) => Handling::Planned(act),
            };
            self.content.get_or_insert_with(Checker::new);
        }
        self.chunk = Some(Chunk { bytes, last, handling });
        Ok(Flow::On)
    }

    /// Handles the received part of a chunk, line by line; returns the number of bytes.
    async fn chunk(&mut self, input: &[u8]) -> Result<(Flow, usize), String> {
        let Some(Chunk { bytes, last, handling }) = self.chunk.take() else {
            return Ok((Flow::On, 0));
        };
        let here = input.get(..bytes).unwrap_or(input);
        let taken = match memchr::memchr(b'\n', here) {
            Some(end) => end + 1,
            None if here.len() == bytes || handling != Handling::Taken => here.len(),
            None => 0,
        };
        if let Some(checker) =
            self.content.as_mut().filter(|_| taken > 0 && handling == Handling::Taken)
        {
            checker.line(here.get(..taken).unwrap_or_default());
        }
        if taken < bytes {
            self.chunk = Some(Chunk { bytes: bytes - taken, last, handling });
            return Ok((Flow::On, taken));
        }
        let flow = match (handling, last) {
            (Handling::NoRecipients, _) => self.say("503 5.5.1 no valid recipients\r\n"),
            (Handling::Planned(act), _) => self.whole_transaction(act)?,
            (Handling::Taken, false) => self.say("250 2.0.0 more\r\n"),
            // The lines of all chunks were lines of content: no dots were added.
            (Handling::Taken, true) => self.end_of_data().await?,
        };
        Ok((flow, taken))
    }

    async fn end_of_data(&mut self) -> Result<Flow, String> {
        let checked = self.content.take().map(|checker| checker.result());
        match self.step(Step::End).await {
            Act::Go => {}
            act => return self.whole_transaction(act),
        }
        let transaction = self.transaction.take().unwrap_or_default();
        let Some(checked) = checked else { return Ok(Flow::HangUp) };
        // First the ledger, then the 250: whatever happens next, the arrival is recorded.
        let mut lines = Vec::new();
        for pair in &transaction.pairs {
            let word =
                if checked.intact && checked.id == Some(pair.id) { "intact" } else { "corrupt" };
            let _ = writeln!(lines, "{pair} {word}");
        }
        self.append(&lines)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = checked.sent.map(|sent| (now.as_micros() as u64).saturating_sub(sent));
        self.shared.arrivals.message(checked.id.is_some());
        for pair in &transaction.pairs {
            let intact = checked.intact && checked.id == Some(pair.id);
            self.shared.arrivals.arrive(*pair, intact, micros);
        }
        Ok(self.say("250 2.0.0 taken\r\n"))
    }

    /// Misbehaves for all recipients of the transaction, which ends.
    fn whole_transaction(&mut self, act: Act) -> Result<Flow, String> {
        let transaction = self.transaction.take().unwrap_or_default();
        self.content = None;
        if let Act::Refuse(_) = act {
            self.refused(&transaction.pairs)?;
        }
        Ok(self.misbehave(act))
    }

    fn refused(&mut self, pairs: &[Pair]) -> Result<(), String> {
        let mut lines = Vec::new();
        for pair in pairs {
            let _ = writeln!(lines, "{pair} refused");
            self.shared.arrivals.refuse(*pair);
        }
        self.append(&lines)
    }

    fn append(&self, lines: &[u8]) -> Result<(), String> {
        match self.ledger.borrow_mut().as_mut() {
            Some(ledger) if !lines.is_empty() => ledger.append(lines),
            _ => Ok(()),
        }
    }

    /// Waits as planned at this step, and decides at random what to do.
    async fn step(&mut self, step: Step) -> Act {
        if let Some(milliseconds) = self.shared.plan.delay(step) {
            // Earlier replies must not wait too.
            if self.flush().await.is_none() {
                return Act::HangUp;
            }
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        let act = self.shared.plan.draw(step, &mut self.rng);
        if act != Act::Go {
            self.shared.arrivals.act(name(act, step));
        }
        act
    }

    fn misbehave(&mut self, act: Act) -> Flow {
        match act {
            Act::Go => Flow::On,
            Act::HangUp => Flow::HangUp,
            Act::Refuse(code) | Act::Defer(code) => {
                self.reply(code, "as planned");
                // RFC 5321 3.8: 421 means that the channel will be closed.
                if code == 421 { Flow::Close } else { Flow::On }
            }
        }
    }

    fn reply(&mut self, code: u16, text: &str) {
        // Writing to a vector does not fail.
        let _ = write!(self.out, "{code} {}.0.0 {text}\r\n", code / 100);
    }

    fn say(&mut self, text: &str) -> Flow {
        self.out.extend_from_slice(text.as_bytes());
        Flow::On
    }

    async fn flush(&mut self) -> Option<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await.ok()?;
            self.out.clear();
        }
        Some(())
    }
}

/// The text between the angle brackets; empty when there are none.
fn path(line: &[u8]) -> &[u8] {
    let begin = memchr::memchr(b'<', line).map_or(line.len(), |at| at + 1);
    let rest = line.get(begin..).unwrap_or_default();
    rest.get(..memchr::memchr(b'>', rest).unwrap_or(0)).unwrap_or_default()
}

/// The misbehaviour's name in the report.
fn name(act: Act, step: Step) -> &'static str {
    const REFUSE: [&str; 8] = [
        "refuse connect",
        "refuse greeting",
        "refuse ehlo",
        "refuse mail",
        "refuse rcpt",
        "refuse data",
        "refuse content",
        "refuse end",
    ];
    const DEFER: [&str; 8] = [
        "defer connect",
        "defer greeting",
        "defer ehlo",
        "defer mail",
        "defer rcpt",
        "defer data",
        "defer content",
        "defer end",
    ];
    const HANG_UP: [&str; 8] = [
        "hang up connect",
        "hang up greeting",
        "hang up ehlo",
        "hang up mail",
        "hang up rcpt",
        "hang up data",
        "hang up content",
        "hang up end",
    ];
    const { assert!(STEPS.len() == REFUSE.len()) };
    let names = match act {
        Act::Go => return "go",
        Act::Refuse(_) => &REFUSE,
        Act::Defer(_) => &DEFER,
        Act::HangUp => &HANG_UP,
    };
    names.get(step as usize).copied().unwrap_or("other")
}
