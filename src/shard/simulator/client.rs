//! A simulated client: sends mail to the relay, and may vanish, hang up or reset at any byte.

use super::truth::{Mail, Sent, Truth, recipient};
use crate::ring::{self, RecvBuf, Stream};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// One client and what it is like.
pub(super) struct Client {
    pub(super) relay: SocketAddr,
    pub(super) truth: Rc<Truth>,
    pub(super) random: fastrand::Rng,
    /// The number of its next message.
    pub(super) next: u64,
    /// The share of commands after which it hangs up, or resets.
    pub(super) gives_up: f64,
    pub(super) domains: &'static [&'static str],
}

/// One connection to the relay.
struct Talk {
    stream: Stream,
    received: RecvBuf,
}

impl Talk {
    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.send_all(bytes, PATIENCE).await
    }

    /// The code of the next reply.
    async fn hear(&mut self) -> io::Result<u16> {
        loop {
            let lines = self.received.filled();
            if let Some(end) = lines.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&lines[..end]).into_owned();
                self.received.consume(end + 2);
                if line.as_bytes().get(3) != Some(&b'-') {
                    return line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(|| {
                        io::Error::new(io::ErrorKind::InvalidData, format!("no reply: {line}"))
                    });
                }
            } else if self.stream.recv(&mut self.received, PATIENCE).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn ask(&mut self, line: &str) -> io::Result<u16> {
        self.say(format!("{line}\r\n").as_bytes()).await?;
        self.hear().await
    }
}

impl Client {
    /// Sends so many messages, in connections of some.
    pub(super) async fn send(mut self, messages: u64) {
        let end = self.next + messages;
        while self.next < end {
            let pause = self.random.u64(..60_000);
            ring::sleep(Duration::from_millis(pause)).await;
            // What is lost is lost: the truth knows how far it came.
            let _ = self.connection(end).await;
        }
    }

    async fn connection(&mut self, end: u64) -> io::Result<()> {
        let stream = match Stream::connect(self.relay, None, PATIENCE).await {
            Ok(stream) => stream,
            Err(error) => {
                self.next += 1;
                return Err(error);
            }
        };
        let mut talk = Talk { stream, received: RecvBuf::with_capacity(4096) };
        let messages = self.random.u64(1..4).min(end - self.next);
        let last = self.next + messages;
        let greeted = async {
            talk.hear().await?;
            talk.ask("EHLO client.test").await
        };
        if greeted.await? != 250 {
            self.next += 1;
            return Ok(());
        }
        while self.next < last {
            let message = self.next;
            self.next += 1;
            self.message(&mut talk, message).await?;
            if self.random.f64() < self.gives_up {
                match self.random.bool() {
                    true => talk.stream.reset(),
                    false => drop(talk),
                }
                return Ok(());
            }
        }
        talk.ask("QUIT").await?;
        talk.stream.close().await;
        Ok(())
    }

    fn content(&mut self, message: u64) -> Vec<u8> {
        let mut content = format!("Subject: {message}\r\nX-Number: {message}\r\n\r\n").into_bytes();
        let most = [3, 50, 400][self.random.usize(..3)];
        for line in 0..self.random.usize(..most) {
            content.extend(format!("line {line} of {message}\r\n").bytes());
        }
        content
    }

    async fn message(&mut self, talk: &mut Talk, message: u64) -> io::Result<()> {
        let content = self.content(message);
        let mail = Mail { content: content.clone(), recipients: Vec::new(), sent: Sent::Never };
        self.truth.begun(message, mail);
        if talk.ask("MAIL FROM:<sender@sender.test>").await? != 250 {
            return Ok(());
        }
        let mut taken = 0;
        for number in 0..self.random.usize(1..4) {
            let domain = self.domains[self.random.usize(..self.domains.len())];
            let to = recipient(message, number, domain);
            // Before the reply: it may be taken, and the reply lost.
            self.truth.change(message, |mail| mail.recipients.push(to.clone()));
            if talk.ask(&format!("RCPT TO:<{to}>")).await? == 250 {
                taken += 1;
            } else {
                self.truth.change(message, |mail| drop(mail.recipients.pop()));
            }
        }
        if taken == 0 || talk.ask("DATA").await? != 354 {
            talk.ask("RSET").await?;
            return Ok(());
        }
        if self.random.f64() < self.gives_up {
            // It vanishes in the middle, wherever that is.
            let part = self.random.usize(..=content.len());
            talk.say(&content[..part]).await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        talk.say(&content).await?;
        self.truth.change(message, |mail| mail.sent = Sent::InDoubt);
        let sent = match talk.ask(".").await? {
            250 => Sent::Acknowledged,
            _ => Sent::Refused,
        };
        self.truth.change(message, |mail| mail.sent = sent);
        Ok(())
    }
}
