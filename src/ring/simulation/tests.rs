//! The simulated network: each property, by the calls that the modules above use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::super::{Listener, RecvBuf, Semaphore, Signal, Stream, Udp, mailbox, now, sleep, spawn};
use super::*;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(2);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));
const AT: SocketAddr = SocketAddr::new(PEER, 25);
const SEEDS: std::ops::Range<u64> = 0..100;

/// A link that is slow and cuts all that is sent.
fn rough() -> Link {
    Link { latency_us: (100, 80_000), piece_max: 7, window: 40, ..Link::default() }
}

/// Runs `body` beside a peer that listens at [`AT`] and does `serve` with each connection.
fn beside<S: Future<Output = ()> + 'static>(
    seed: u64,
    link: Link,
    serve: impl Fn(Stream) -> S + 'static,
    body: impl Future<Output = ()> + 'static,
) -> Trace {
    let set_up = |simulation: &Simulation| {
        let peer = simulation.net().add_host(&[PEER], link);
        simulation.spawn_on(peer, async move {
            let listener = Listener::bind(AT).unwrap();
            loop {
                let serving = serve(listener.accept().await.unwrap());
                spawn_here(serving);
            }
        });
    };
    run(seed, set_up, async {
        // The peer listens when this goes on.
        sleep(Duration::from_millis(1)).await;
        body.await;
    })
}

/// A peer that is there, and serves nothing.
fn with_a_peer(simulation: &Simulation) {
    simulation.net().add_host(&[PEER], Link::default());
}

/// Unlike a task of `ring`, one whose panic fails the test.
fn spawn_here(job: impl Future<Output = ()> + 'static) {
    super::spawn(job);
}

/// All bytes up to the end of the stream, or to an error.
async fn read_all(stream: &mut Stream) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut buffer) = (Vec::new(), RecvBuf::with_capacity(64));
    loop {
        match stream.recv(&mut buffer, LONG).await {
            Ok(0) => return (all, Ok(())),
            Ok(_) => {
                all.extend(buffer.filled());
                buffer.consume(usize::MAX);
            }
            Err(error) => return (all, Err(error)),
        }
    }
}

fn some_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

async fn echo(mut stream: Stream) {
    let mut buffer = RecvBuf::with_capacity(64);
    while let Ok(1..) = stream.recv(&mut buffer, LONG).await {
        let sent = stream.send_all(buffer.filled(), LONG).await;
        buffer.consume(usize::MAX);
        if sent.is_err() {
            return;
        }
    }
    stream.close().await;
}

async fn connect() -> io::Result<Stream> {
    Stream::connect(AT, None, SHORT).await
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().unwrap().kind()
}

/// What comes back through a peer that echoes, in pieces.
async fn send_and_read_back(bytes: Vec<u8>) {
    let mut near = connect().await.unwrap();
    assert_eq!((near.local_address().ip(), near.peer_address()), (SELF_IPV4, AT));
    let mut buffer = RecvBuf::with_capacity(64);
    for line in bytes.chunks(20) {
        near.send_all(line, LONG).await.unwrap();
        while buffer.filled().len() < line.len() {
            assert_ne!(near.recv(&mut buffer, LONG).await.unwrap(), 0);
        }
        assert_eq!(buffer.filled(), line);
        buffer.consume(line.len());
    }
    near.close().await;
}

#[test]
fn bytes_arrive_whole_in_order_and_late_however_they_are_cut() {
    for seed in SEEDS {
        beside(seed, rough(), echo, async {
            let begun = now();
            send_and_read_back(some_bytes(500)).await;
            assert!(now() - begun > Duration::from_micros(100 * 2 * 25));
        });
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let trace = |seed| beside(seed, rough(), echo, send_and_read_back(some_bytes(500)));
    let traces: Vec<Trace> = SEEDS.map(trace).collect();
    assert_eq!(traces, SEEDS.map(trace).collect::<Vec<_>>());
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "each seed is another run");
}

#[test]
fn many_connections_at_once_do_not_mix_their_bytes() {
    for seed in 0..10 {
        let trace = beside(seed, rough(), echo, async {
            let left = Rc::new(Cell::new(20));
            for number in 0..20_u8 {
                let left = Rc::clone(&left);
                spawn_here(async move {
                    send_and_read_back(vec![number; 100]).await;
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                sleep(SHORT).await;
            }
            sleep(LONG).await;
            let simulation = current().unwrap();
            let net = simulation.net();
            assert_eq!((net.connections(), net.descriptors(SELF)), (0, 0));
        });
        assert_ne!(trace, Trace::default());
    }
}

#[test]
fn a_link_carries_only_so_many_bytes_a_second() {
    let link = Link { bytes_per_second: 10_000, ..Link::default() };
    let serve = |mut stream: Stream| async move {
        let (all, end) = read_all(&mut stream).await;
        assert!(end.is_ok());
        assert_eq!(all, some_bytes(100_000));
    };
    beside(1, link, serve, async {
        let mut near = connect().await.unwrap();
        near.send_all(&some_bytes(100_000), LONG).await.unwrap();
        let begun = now();
        // The end comes after the bytes.
        let (_, end) = read_all(&mut near).await;
        assert!(end.is_ok() || kind(end) == ErrorKind::TimedOut);
        assert!(now() - begun >= Duration::from_millis(9_900));
    });
}

#[test]
fn a_send_to_a_peer_that_does_not_read_times_out_and_one_that_reads_slowly_goes_on() {
    let serve = |stream: Stream| async move {
        sleep(LONG).await;
        drop(stream);
    };
    beside(2, rough(), serve, async {
        let mut near = connect().await.unwrap();
        assert_eq!(kind(near.send_all(&some_bytes(50), SHORT).await), ErrorKind::TimedOut);
    });
    let slow = |mut stream: Stream| async move {
        let mut buffer = RecvBuf::with_capacity(16);
        while let Ok(1..) = stream.recv(&mut buffer, LONG).await {
            buffer.consume(usize::MAX);
            sleep(SHORT / 2).await;
        }
    };
    beside(2, rough(), slow, async {
        let mut near = connect().await.unwrap();
        near.send_all(&some_bytes(1000), SHORT * 2).await.unwrap();
    });
}

#[test]
fn one_side_may_end_and_still_receive() {
    for seed in SEEDS {
        let last_words = Signal::new();
        let said = last_words.clone();
        let serve = move |mut stream: Stream| {
            let said = said.clone();
            async move {
                let (all, end) = read_all(&mut stream).await;
                assert_eq!((all, end.is_ok()), (b"QUIT\r\n".to_vec(), true));
                stream.send_all(b"221 bye\r\n", LONG).await.unwrap();
                said.set();
            }
        };
        let link = Link { latency_us: (0, 100_000), piece_max: 3, ..Link::default() };
        beside(seed, link, serve, async move {
            let mut near = connect().await.unwrap();
            near.send_all(b"QUIT\r\n", LONG).await.unwrap();
            let begun = now();
            near.close().await;
            assert!(last_words.wait_for(Duration::ZERO).await, "it has waited for the end");
            assert!(now() - begun < Duration::from_secs(1));
        });
    }
}

#[test]
fn a_close_with_unread_bytes_resets_the_connection() {
    let mut heard_first = 0;
    for seed in SEEDS {
        let heard = Rc::new(Cell::new(false));
        let hears = Rc::clone(&heard);
        let serve = |mut stream: Stream| async move {
            // Never reads what was sent.
            stream.send_all(b"421 no\r\n", LONG).await.unwrap();
            sleep(SHORT).await;
            drop(stream);
        };
        beside(seed, Link::default(), serve, async move {
            let mut near = connect().await.unwrap();
            near.send_all(b"EHLO x\r\n", LONG).await.unwrap();
            sleep(SHORT * 2).await;
            let (all, end) = read_all(&mut near).await;
            assert_eq!(kind(end), ErrorKind::ConnectionReset);
            hears.set(all == b"421 no\r\n");
            assert!(hears.get() || all.is_empty());
            let (_, again) = read_all(&mut near).await;
            assert!(again.is_ok(), "then it is the end of the stream");
            assert_eq!(kind(near.send_all(b"x", LONG).await), ErrorKind::BrokenPipe);
        });
        heard_first += usize::from(heard.get());
    }
    assert!((10..90).contains(&heard_first), "by chance the reset overtakes: {heard_first}");
}

#[test]
fn bytes_to_a_closed_end_are_answered_by_a_reset() {
    beside(1, Link::default(), |stream| async move { drop(stream) }, async {
        let mut near = connect().await.unwrap();
        assert!(read_all(&mut near).await.1.is_ok());
        near.send_all(b"first", LONG).await.unwrap();
        sleep(SHORT).await;
        assert_eq!(kind(near.send_all(b"second", LONG).await), ErrorKind::ConnectionReset);
        assert_eq!(kind(near.send_all(b"third", LONG).await), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_peer_may_reset_at_any_time() {
    beside(1, rough(), |stream| async move { stream.reset() }, async {
        let mut near = connect().await.unwrap();
        assert_eq!(kind(read_all(&mut near).await.1), ErrorKind::ConnectionReset);
    });
}

#[test]
fn connecting_is_refused_unanswered_or_impossible() {
    let set_up = |simulation: &Simulation| {
        let mut net = simulation.net();
        let link = |reach| Link { reach, latency_us: (5, 9), ..Link::default() };
        let host = |last: u8| [IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))];
        net.add_host(&host(1), link(Reach::Open));
        net.add_host(&host(2), link(Reach::Silent));
        net.add_host(&host(3), link(Reach::Unreachable));
    };
    run(1, set_up, async {
        for (host, expected) in [
            ("198.51.100.1:25", ErrorKind::ConnectionRefused),
            ("198.51.100.2:25", ErrorKind::TimedOut),
            ("198.51.100.3:25", ErrorKind::HostUnreachable),
            ("198.51.100.4:25", ErrorKind::HostUnreachable),
            ("127.0.0.1:25", ErrorKind::ConnectionRefused),
        ] {
            let begun = now();
            let connected = Stream::connect(host.parse().unwrap(), None, SHORT).await;
            assert_eq!(kind(connected), expected, "{host}");
            let waited = now() - begun;
            assert_eq!(waited >= SHORT, expected == ErrorKind::TimedOut, "{host}: {waited:?}");
        }
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let near = Stream::connect(listener.address(), None, SHORT).await.unwrap();
        assert_eq!(near.local_address(), listener.accept().await.unwrap().peer_address());
    });
}

#[test]
fn a_full_backlog_answers_no_more() {
    let set_up = |simulation: &Simulation| {
        let peer = simulation.net().add_host(&[PEER], Link::default());
        simulation.spawn_on(peer, async {
            let _listener = Listener::bind(AT).unwrap();
            std::future::pending::<()>().await;
        });
    };
    run(1, set_up, async {
        sleep(SHORT).await;
        let mut taken = Vec::new();
        let silent = loop {
            match connect().await {
                Ok(stream) => taken.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!((silent.kind(), taken.len()), (ErrorKind::TimedOut, 1024));
    });
}

#[test]
fn a_dropped_listener_resets_what_was_not_accepted_and_refuses_what_comes() {
    run(1, |_| (), async {
        let listener = Listener::bind("0.0.0.0:25".parse().unwrap()).unwrap();
        let at = SocketAddr::new(SELF_IPV4, 25);
        futures_lite::future::or(async { drop(listener.accept().await) }, sleep(SHORT)).await;
        let mut one = Stream::connect(at, None, SHORT).await.unwrap();
        let mut other = Stream::connect(at, None, SHORT).await.unwrap();
        sleep(SHORT).await;
        drop(listener);
        sleep(SHORT).await;
        for near in [&mut one, &mut other] {
            assert_ne!(read_all(near).await.1.map_err(|error| error.kind()), {
                Err(ErrorKind::TimedOut)
            });
        }
        let refused = Stream::connect(at, None, SHORT).await;
        assert_eq!(kind(refused), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_connection_may_be_lost_after_any_byte() {
    let mut ends: BTreeMap<(usize, ErrorKind), u32> = BTreeMap::new();
    for seed in 0..400 {
        let link = Link { lost: 1.0, lost_within: 20, ..rough() };
        let serve = |mut stream: Stream| async move {
            let _ = stream.send_all(&some_bytes(30), LONG).await;
            let _ = read_all(&mut stream).await;
        };
        let seen = Rc::new(Cell::new((0, ErrorKind::Other)));
        let sees = Rc::clone(&seen);
        beside(seed, link, serve, async move {
            let mut near = connect().await.unwrap();
            let (all, end) = read_all(&mut near).await;
            assert_eq!(all, some_bytes(all.len()), "what has come is right");
            sees.set((all.len(), kind(end)));
        });
        *ends.entry(seen.get()).or_default() += 1;
    }
    for bytes in 0..=20 {
        for kind in [ErrorKind::ConnectionReset, ErrorKind::TimedOut] {
            assert!(ends.contains_key(&(bytes, kind)), "never: {kind:?} after {bytes} bytes");
        }
    }
    assert_eq!(ends.len(), 2 * 21);
}

#[test]
fn what_was_sent_to_a_silent_host_arrives_when_it_is_back() {
    let set_reach = |reach| {
        let simulation = current().unwrap();
        simulation.net().change_link(1, |link| link.reach = reach);
    };
    for seed in SEEDS {
        beside(seed, rough(), echo, async move {
            let mut near = connect().await.unwrap();
            set_reach(Reach::Silent);
            near.send_all(&some_bytes(30), LONG).await.unwrap();
            let mut buffer = RecvBuf::with_capacity(64);
            assert_eq!(kind(near.recv(&mut buffer, SHORT).await), ErrorKind::TimedOut);
            set_reach(Reach::Open);
            while buffer.filled().len() < 30 {
                assert_ne!(near.recv(&mut buffer, LONG).await.unwrap(), 0);
            }
            assert_eq!(buffer.filled(), some_bytes(30));
        });
    }
}

#[test]
fn without_a_descriptor_connecting_waits_and_accepting_goes_on_later() {
    let set_up = |simulation: &Simulation| {
        let mut net = simulation.net();
        net.set_descriptors_max(SELF, 2);
        let peer = net.add_host(&[PEER], Link::default());
        drop(net);
        simulation.spawn_on(peer, async {
            let listener = Listener::bind(AT).unwrap();
            let _held = listener.accept().await.unwrap();
            let into = SocketAddr::new(SELF_IPV4, 25);
            let mut near = Stream::connect(into, None, SHORT).await.unwrap();
            let (all, end) = read_all(&mut near).await;
            assert_eq!((all, end.is_ok()), (b"220 late\r\n".to_vec(), true));
        });
    };
    run(1, set_up, async {
        let listener = Listener::bind(SocketAddr::new(SELF_IPV4, 25)).unwrap();
        sleep(SHORT).await;
        let out = connect().await.unwrap();
        assert_eq!(kind(Udp::connect(AT)), io::Error::from_raw_os_error(libc::EMFILE).kind());
        let begun = now();
        assert_eq!(connect().await.err().unwrap().raw_os_error(), Some(libc::EMFILE));
        assert!(now() - begun > SHORT / 2, "it has waited for one");
        let none = listener.accept().await.err().unwrap();
        assert_eq!(none.raw_os_error(), Some(libc::EMFILE));
        drop(out);
        let mut accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.peer_address().ip(), PEER);
        accepted.send_all(b"220 late\r\n", LONG).await.unwrap();
        accepted.close().await;
        sleep(SHORT).await;
    });
}

#[test]
fn a_host_has_its_own_addresses_only() {
    run(1, with_a_peer, async {
        assert!(Udp::is_local(SELF_IPV4) && Udp::is_local(SELF_IPV6));
        assert!(Udp::is_local("127.0.0.9".parse().unwrap()) && !Udp::is_local(PEER));
        let from = |from| Stream::connect(AT, Some(from), SHORT);
        assert_eq!(kind(from(PEER).await), ErrorKind::AddrNotAvailable);
        assert_eq!(kind(from(SELF_IPV6).await), ErrorKind::InvalidInput);
        assert_eq!(kind(from(SELF_IPV4).await), ErrorKind::ConnectionRefused);
        assert_eq!(kind(Listener::bind(AT)), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn waits_end_by_the_clock_of_the_simulation_or_by_an_interrupter() {
    let real = std::time::Instant::now();
    beside(1, rough(), echo, async {
        let mut near = connect().await.unwrap();
        let mut buffer = RecvBuf::with_capacity(8);
        let (begun, wait) = (now(), LONG / 2);
        assert_eq!(kind(near.recv(&mut buffer, wait).await), ErrorKind::TimedOut);
        assert!(now() - begun >= wait);
        let interrupter = near.interrupter();
        spawn("interrupts", async move {
            sleep(SHORT).await;
            interrupter.interrupt();
        });
        assert_eq!(kind(near.recv(&mut buffer, wait).await), ErrorKind::Interrupted);
        assert_eq!(near.try_recv(&mut buffer).unwrap(), None);
        near.send_all(b"abc", LONG).await.unwrap();
        sleep(SHORT).await;
        assert_eq!(near.try_recv(&mut buffer).unwrap(), Some(3));
    });
    assert!(real.elapsed() < Duration::from_secs(600));
}

#[test]
fn mailboxes_and_permits_work_as_on_a_shard() {
    for seed in SEEDS {
        run(seed, |_| (), async {
            let (sender, mut inbox) = mailbox(2);
            let permits = Semaphore::new(3);
            for number in 0..10 {
                let (sender, permits) = (sender.clone(), permits.clone());
                spawn("sends", async move {
                    let _permit = permits.acquire().await;
                    sleep(Duration::from_millis(number)).await;
                    let mut item = number;
                    while let Err(back) = sender.try_send(item) {
                        item = back;
                        sender.room().await;
                    }
                });
            }
            let mut got = Vec::new();
            while got.len() < 10 {
                got.push(inbox.recv().await);
                assert!(permits.in_use() <= 3);
            }
            got.sort_unstable();
            assert_eq!(got, (0..10).collect::<Vec<_>>());
        });
    }
}

/// Sends a hundred numbers to a peer that sends them back; those that come back.
fn numbers_back(seed: u64, link: Link) -> Vec<u8> {
    let set_up = move |simulation: &Simulation| {
        let peer = simulation.net().add_host(&[PEER], link);
        simulation.spawn_on(peer, async {
            let socket = Datagrams::bind(AT).unwrap();
            loop {
                let (from, bytes) = socket.recv().await.unwrap();
                socket.send(from, &bytes);
            }
        });
    };
    let got = Rc::new(RefCell::new(Vec::new()));
    let gets = Rc::clone(&got);
    run(seed, set_up, async move {
        sleep(SHORT).await;
        let socket = Udp::connect(AT).unwrap();
        for number in 0..100 {
            socket.send(&[number]).await.unwrap();
        }
        let mut datagram = [0; 8];
        while let Ok(length) = socket.recv(&mut datagram, SHORT).await {
            assert_eq!(length, 1);
            gets.borrow_mut().push(datagram[0]);
        }
    });
    got.take()
}

#[test]
fn datagrams_are_lost_doubled_and_late_by_the_seed() {
    let all: Vec<u8> = (0..100).collect();
    assert_eq!(numbers_back(1, Link::default()), all);
    let lost = Link { datagrams_lost: 0.3, ..Link::default() };
    let got = numbers_back(1, lost.clone());
    assert!(got.is_sorted() && (20..80).contains(&got.len()), "{got:?}");
    assert_eq!(got, numbers_back(1, lost.clone()));
    assert_ne!(got, numbers_back(2, lost));
    let got = numbers_back(1, Link { datagrams_doubled: 0.3, ..Link::default() });
    assert!(got.len() > 120, "{got:?}");
    let mut got = numbers_back(1, Link { datagrams_late: 0.5, late_us: 900, ..Link::default() });
    assert!(!got.is_sorted(), "{got:?}");
    got.sort_unstable();
    assert_eq!(got, all);
}

#[test]
fn a_forged_datagram_arrives_only_under_the_address_of_the_peer_and_at_the_port() {
    let set_up = |simulation: &Simulation| {
        let mut net = simulation.net();
        let (peer, other) =
            (net.add_host(&[PEER], Link::default()), net.add_host(&[OTHER], Link::default()));
        drop(net);
        let asked = Rc::new(Cell::new(None));
        let asks = Rc::clone(&asked);
        simulation.spawn_on(peer, async move {
            let socket = Datagrams::bind(AT).unwrap();
            asks.set(Some(socket.recv().await.unwrap().0));
            std::future::pending::<()>().await;
        });
        simulation.spawn_on(other, async move {
            let socket = Datagrams::bind(SocketAddr::new(OTHER, 53)).unwrap();
            sleep(SHORT * 2).await;
            let victim: SocketAddr = asked.get().unwrap();
            socket.send(victim, b"from another address");
            socket.forge(AT, SocketAddr::new(victim.ip(), victim.port() ^ 1), b"other port");
            sleep(SHORT).await;
            socket.forge(AT, victim, b"forged");
        });
    };
    run(1, set_up, async {
        sleep(SHORT).await;
        let socket = Udp::connect(AT).unwrap();
        socket.send(b"question").await.unwrap();
        let mut datagram = [0; 4];
        assert_eq!(socket.recv(&mut datagram, LONG).await.unwrap(), 4);
        assert_eq!(&datagram, b"forg", "cut to what fits");
        assert_eq!(kind(socket.recv(&mut datagram, LONG).await), ErrorKind::TimedOut);
    });
}

#[test]
fn a_datagram_to_a_closed_port_or_a_missing_host_is_answered_by_an_error() {
    run(1, with_a_peer, async {
        for (address, expected) in [
            (AT, ErrorKind::ConnectionRefused),
            (SocketAddr::new(OTHER, 53), ErrorKind::HostUnreachable),
        ] {
            let socket = Udp::connect(address).unwrap();
            socket.send(b"question").await.unwrap();
            assert_eq!(kind(socket.recv(&mut [0; 4], LONG).await), expected);
        }
    });
}
