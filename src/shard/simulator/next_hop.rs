//! A simulated next hop: takes mail, and may hang up, reset, be silent, or refuse at any stage.

use super::truth::Truth;
use crate::ring::simulation;
use crate::ring::{self, Listener, RecvBuf, Stream};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Longer than any time-out of the relay.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What may go wrong at each stage, as shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) hang_up: f64,
    pub(super) reset: f64,
    pub(super) silence: f64,
    pub(super) close_with_421: f64,
    pub(super) defer: f64,
    pub(super) refuse: f64,
    /// The message is taken, and then there is no reply.
    pub(super) forget_to_reply: f64,
}

/// A stage of the conversation, and what it is answered.
enum Answer {
    Reply(String),
    /// The connection is over.
    Over,
}

pub(super) struct NextHop {
    pub(super) address: SocketAddr,
    pub(super) truth: Rc<Truth>,
    pub(super) faults: RefCell<Faults>,
    pub(super) random: RefCell<fastrand::Rng>,
    /// How often something went wrong on purpose, and how often a message was taken.
    pub(super) faulty: Cell<u64>,
    pub(super) taken: Cell<u64>,
}

/// One transaction.
#[derive(Default)]
struct Transaction {
    from: String,
    to: Vec<String>,
}

impl NextHop {
    /// Serves for ever. To be spawned on the host of its address.
    pub(super) async fn serve(self: Rc<Self>) {
        let listener = Listener::bind(self.address).unwrap();
        loop {
            let Ok(stream) = listener.accept().await else { continue };
            let itself = Rc::clone(&self);
            simulation::spawn(async move {
                let _ = itself.converse(stream).await;
            });
        }
    }

    fn happens(&self, share: f64) -> bool {
        let happens = self.random.borrow_mut().f64() < share;
        self.faulty.set(self.faulty.get() + u64::from(happens));
        happens
    }

    async fn converse(&self, stream: Stream) -> io::Result<()> {
        let mut stream = stream;
        let mut received = RecvBuf::with_capacity(64 * 1024);
        let mut transaction = Transaction::default();
        // Taken with a 250 that the relay may not have read.
        let mut unread: Vec<String> = Vec::new();
        let mut answer = self.greet();
        loop {
            let Answer::Reply(text) = answer else { return Ok(()) };
            let faults = self.faults.borrow().clone();
            if self.happens(faults.hang_up) {
                return Ok(());
            }
            if self.happens(faults.reset) {
                stream.reset();
                return Ok(());
            }
            if self.happens(faults.silence) {
                ring::sleep(FOR_EVER).await;
                return Ok(());
            }
            if self.happens(faults.close_with_421) {
                stream.send_all(b"421 4.3.2 closing\r\n", FOR_EVER).await?;
                stream.close().await;
                return Ok(());
            }
            stream.send_all(text.as_bytes(), FOR_EVER).await?;
            if text.starts_with("221") {
                stream.close().await;
                return Ok(());
            }
            if text.starts_with("354") {
                let content = read_content(&mut stream, &mut received).await?;
                answer = self.take(&transaction, &content);
                if text_of(&answer).starts_with("250") && !transaction.from.is_empty() {
                    unread.clone_from(&transaction.to);
                }
                transaction = Transaction::default();
                if self.happens(faults.forget_to_reply) {
                    ring::sleep(FOR_EVER).await;
                    return Ok(());
                }
                continue;
            }
            let line = read_line(&mut stream, &mut received).await?;
            // It speaks again, so it has read all replies so far.
            unread.drain(..).for_each(|to| self.truth.known(&to));
            answer = self.command(&line, &mut transaction);
        }
    }

    fn greet(&self) -> Answer {
        match self.refusal() {
            Some(text) => Answer::Reply(text),
            None => Answer::Reply("220 hop.test\r\n".to_owned()),
        }
    }

    /// A refusal that passes, by chance.
    fn refusal(&self) -> Option<String> {
        let defer = self.faults.borrow().defer;
        self.happens(defer).then(|| "450 4.2.0 later\r\n".to_owned())
    }

    fn command(&self, line: &str, transaction: &mut Transaction) -> Answer {
        let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let path = path.map(|(path, _)| path.to_owned()).unwrap_or_default();
        let fault = match word.as_str() {
            "MAIL" | "RCPT" | "DATA" | "EHLO" => self.refusal(),
            _ => None,
        };
        if let Some(text) = fault {
            return Answer::Reply(text);
        }
        let reply = match word.as_str() {
            "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            "MAIL" => {
                *transaction = Transaction { from: path, to: Vec::new() };
                "250 2.1.0 ok\r\n"
            }
            "RCPT" => {
                let refuse = self.faults.borrow().refuse;
                // Reports are not refused: they would end with no trace.
                if !transaction.from.is_empty() && self.happens(refuse) {
                    self.truth.refused(&path);
                    "550 5.1.1 no such user\r\n"
                } else {
                    transaction.to.push(path);
                    "250 2.1.5 ok\r\n"
                }
            }
            "DATA" if transaction.to.is_empty() => "554 5.5.1 no recipients\r\n",
            "DATA" => "354 go on\r\n",
            "RSET" => {
                *transaction = Transaction::default();
                "250 2.0.0 ok\r\n"
            }
            "QUIT" => "221 2.0.0 bye\r\n",
            "" => return Answer::Over,
            _ => "250 2.0.0 ok\r\n",
        };
        Answer::Reply(reply.to_owned())
    }

    /// The end of the content has come.
    fn take(&self, transaction: &Transaction, content: &[u8]) -> Answer {
        if let Some(text) = self.refusal() {
            return Answer::Reply(text);
        }
        let refuse = self.faults.borrow().refuse;
        if !transaction.from.is_empty() && self.happens(refuse) {
            transaction.to.iter().for_each(|to| self.truth.refused(to));
            return Answer::Reply("554 5.7.1 not that\r\n".to_owned());
        }
        self.taken.set(self.taken.get() + 1);
        if transaction.from.is_empty() {
            let text = String::from_utf8_lossy(content);
            for line in text.lines() {
                if let Some(to) = line.strip_prefix("Final-Recipient: rfc822; ") {
                    self.truth.reported(to.trim());
                }
            }
        } else {
            transaction.to.iter().for_each(|to| self.truth.delivered(to, content));
        }
        Answer::Reply("250 2.0.0 taken\r\n".to_owned())
    }
}

fn text_of(answer: &Answer) -> &str {
    match answer {
        Answer::Reply(text) => text,
        Answer::Over => "",
    }
}

/// The next line, without its CRLF; empty at the end of the stream.
async fn read_line(stream: &mut Stream, received: &mut RecvBuf) -> io::Result<String> {
    loop {
        let all = received.filled();
        if let Some(end) = all.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&all[..end]).into_owned();
            received.consume(end + 2);
            return Ok(line);
        }
        if stream.recv(received, FOR_EVER).await? == 0 {
            return Ok(String::new());
        }
    }
}

/// The content up to the final dot. The simulated clients send no line that begins with a dot.
async fn read_content(stream: &mut Stream, received: &mut RecvBuf) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        content.extend(received.filled());
        received.consume(usize::MAX);
        let end = content.windows(5).position(|five| five == b"\r\n.\r\n");
        if let Some(end) = end {
            assert_eq!(content.len(), end + 5, "nothing is sent behind the final dot");
            content.truncate(end + 2);
            return Ok(content);
        }
        if stream.recv(received, FOR_EVER).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
