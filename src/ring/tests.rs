//! The driver on the real kernel: threads, sockets and files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(10);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn settings() -> Settings {
    Settings { depth: 128, preempt: Duration::from_millis(1) }
}

/// Runs one shard to its end.
fn on_shard<Fut: Future<Output = ()> + 'static>(body: impl Fn() -> Fut + Send + Clone + 'static) {
    start(&[None], &settings(), move |_| body()).unwrap().join().unwrap();
}

/// Two ends of one connection on this shard.
async fn pair() -> (Stream, Stream) {
    let listener = Listener::bind(ANY_PORT).unwrap();
    let near = Stream::connect(listener.address(), None, LONG).await.unwrap();
    (near, listener.accept().await.unwrap())
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

mod tasks {
    use super::*;

    #[test]
    fn a_panic_ends_its_task_alone() {
        on_shard(|| async {
            let done = Signal::new();
            spawn("fails", async { panic!("on purpose") });
            struct FailsToDrop;
            impl Drop for FailsToDrop {
                fn drop(&mut self) {
                    panic!("on purpose, while dropped")
                }
            }
            let bad = FailsToDrop;
            spawn("fails to drop", async move {
                let _bad = bad;
                sleep(Duration::from_millis(1)).await;
            });
            let set = done.clone();
            spawn("goes on", async move {
                sleep(SOON).await;
                set.set();
            });
            assert!(done.wait_for(LONG).await);
        });
    }

    #[test]
    fn a_spawned_task_does_not_run_on_the_stack_of_its_spawner() {
        on_shard(|| async {
            let shared = Rc::new(RefCell::new(0));
            let borrowed = shared.borrow_mut();
            let in_task = Rc::clone(&shared);
            spawn("wants the borrow", async move { *in_task.borrow_mut() += 1 });
            drop(borrowed);
            yield_now().await;
            assert_eq!(*shared.borrow(), 1);
        });
    }

    #[test]
    fn tasks_and_their_sockets_end_with_the_body() {
        let (ended, tasks_ended) = std::sync::mpsc::channel();
        let before = open_files();
        on_shard(move || {
            let ended = ended.clone();
            async move {
                struct Tell(std::sync::mpsc::Sender<()>);
                impl Drop for Tell {
                    fn drop(&mut self) {
                        self.0.send(()).unwrap();
                    }
                }
                for _ in 0..100 {
                    let tell = Tell(ended.clone());
                    let (mut near, far) = pair().await;
                    spawn("waits for ever", async move {
                        let _held = (tell, far);
                        let _ = near.recv(&mut RecvBuf::with_capacity(8), Duration::MAX).await;
                    });
                }
                // Not polled before the end.
                let tell = Tell(ended.clone());
                spawn("never polled", async move { drop(tell) });
            }
        });
        assert_eq!(tasks_ended.try_iter().count(), 101);
        // Other tests run beside this one and hold some; these would be 200.
        assert!(open_files() < before + 100, "{} then {}", before, open_files());
    }

    #[test]
    fn a_yielding_task_lets_others_run_and_the_rings_be_looked_at() {
        on_shard(|| async {
            let done = Rc::new(Cell::new(false));
            let set = Rc::clone(&done);
            spawn("waits for the network", async move {
                let (mut near, mut far) = pair().await;
                near.send_all(b"x", LONG).await.unwrap();
                far.recv(&mut RecvBuf::with_capacity(1), LONG).await.unwrap();
                set.set(true);
            });
            let begun = Instant::now();
            while !done.get() {
                assert!(begun.elapsed() < LONG);
                yield_now().await;
            }
        });
    }
}

mod starting {
    use super::*;

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error_that_names_those_that_do() {
        let error = start(&[None, Some(1000)], &settings(), |_| async {}).err().unwrap();
        assert!(matches!(error, StartError::Cpu { shard: 1, cpu: 1000, .. }), "{error}");
        assert!(error.to_string().contains("may use CPUs"), "{error}");
        let far = start(&[Some(usize::MAX)], &settings(), |_| async {}).err().unwrap();
        assert!(matches!(far, StartError::Cpu { .. }), "{far}");
    }

    #[test]
    fn a_depth_that_no_ring_has_is_an_error() {
        for depth in [0, 4, 100, 65_536] {
            let error = start(&[None], &Settings { depth, ..settings() }, |_| async {});
            assert!(matches!(error.err().unwrap(), StartError::Settings(_)));
        }
        assert!(matches!(start(&[], &settings(), |_| async {}), Err(StartError::Settings(_))));
    }

    #[test]
    fn start_returns_when_every_body_was_polled() {
        let (polled, count) = std::sync::mpsc::channel();
        let shards = start(&[Some(0), None, None], &settings(), move |index| {
            let polled = polled.clone();
            async move { polled.send(index).unwrap() }
        });
        let mut indexes: Vec<usize> = count.try_iter().collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2]);
        shards.unwrap().join().unwrap();
    }

    #[test]
    fn a_body_that_panics_at_once_is_a_start_error_and_later_a_join_error() {
        let error = start(&[None], &settings(), |_| async { panic!("too soon") }).err().unwrap();
        assert!(
            matches!(&error, StartError::Panicked { shard: 0, message } if message == "too soon")
        );
        let shards = start(&[None, None], &settings(), |index| async move {
            sleep(SOON).await;
            assert_ne!(index, 1, "on purpose");
        });
        let faults = shards.unwrap().join().unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("shard 1 panicked: "), "{faults:?}");
    }
}

mod streams {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_however_they_are_split() {
        on_shard(|| async {
            let (mut near, mut far) = pair().await;
            assert_eq!(near.peer_address(), far.local_address());
            spawn("echo", async move {
                let mut buffer = RecvBuf::with_capacity(7);
                while far.recv(&mut buffer, LONG).await.unwrap() > 0 {
                    far.send_all(buffer.filled(), LONG).await.unwrap();
                    buffer.consume(usize::MAX);
                }
                far.close().await;
            });
            let mut buffer = RecvBuf::with_capacity(16);
            for round in 0..2000_u32 {
                let line = format!("line {round}\r\n");
                let (first, second) = line.as_bytes().split_at(3);
                near.send_all(first, LONG).await.unwrap();
                yield_now().await;
                near.send_all(second, LONG).await.unwrap();
                while buffer.filled().len() < line.len() {
                    assert_ne!(near.recv(&mut buffer, LONG).await.unwrap(), 0);
                }
                assert_eq!(buffer.filled(), line.as_bytes());
                buffer.consume(line.len());
                buffer.release();
            }
            near.close().await;
        });
    }

    #[test]
    fn a_receive_that_times_out_leaves_the_stream_usable() {
        on_shard(|| async {
            let (mut near, mut far) = pair().await;
            let mut buffer = RecvBuf::with_capacity(64);
            for round in 0..3 {
                let begun = Instant::now();
                let error = near.recv(&mut buffer, SOON).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut, "round {round}");
                assert!(begun.elapsed() >= SOON);
                assert!(begun.elapsed() < SOON + Duration::from_secs(1));
                far.send_all(b"after", LONG).await.unwrap();
                assert_eq!(near.recv(&mut buffer, LONG).await.unwrap(), 5);
                buffer.consume(5);
            }
        });
    }

    #[test]
    fn an_interrupter_ends_the_waiting_receive_or_the_next_one() {
        on_shard(|| async {
            let (mut near, mut far) = pair().await;
            let interrupter = near.interrupter();
            let later = interrupter.clone();
            spawn("interrupts", async move {
                sleep(SOON).await;
                later.interrupt();
            });
            let mut buffer = RecvBuf::with_capacity(64);
            let waiting = near.recv(&mut buffer, LONG).await.unwrap_err();
            assert_eq!(waiting.kind(), ErrorKind::Interrupted);
            far.send_all(b"still here", LONG).await.unwrap();
            interrupter.interrupt();
            let next = near.recv(&mut buffer, LONG).await.unwrap_err();
            assert_eq!(next.kind(), ErrorKind::Interrupted);
            assert_eq!(near.recv(&mut buffer, LONG).await.unwrap(), 10);
        });
    }

    #[test]
    fn what_is_there_can_be_taken_without_waiting() {
        on_shard(|| async {
            let (mut near, mut far) = pair().await;
            let mut buffer = RecvBuf::with_capacity(4);
            assert_eq!(near.try_recv(&mut buffer).unwrap(), None);
            far.send_all(b"abcdef", LONG).await.unwrap();
            assert_eq!(near.try_recv(&mut buffer).unwrap(), Some(4));
            assert_eq!(near.try_recv(&mut buffer).unwrap_err().kind(), ErrorKind::InvalidInput);
            let full = near.recv(&mut buffer, LONG).await.unwrap_err();
            assert_eq!(full.kind(), ErrorKind::InvalidInput);
            buffer.consume(4);
            assert_eq!(near.recv(&mut buffer, LONG).await.unwrap(), 2);
            drop(far);
            assert_eq!(near.recv(&mut buffer, LONG).await.unwrap(), 0);
            assert_eq!(near.try_recv(&mut buffer).unwrap(), Some(0));
        });
    }

    #[test]
    fn a_send_to_a_peer_that_does_not_read_times_out() {
        on_shard(|| async {
            let (mut near, _far) = pair().await;
            let much = vec![0; 64 * 1024 * 1024];
            let error = near.send_all(&much, SOON).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        });
    }

    #[test]
    fn a_send_goes_on_as_long_as_the_peer_reads_now_and_then() {
        on_shard(|| async {
            let (mut near, mut far) = pair().await;
            const MUCH: usize = 16 * 1024 * 1024;
            let read = Rc::new(Cell::new(0));
            let count = Rc::clone(&read);
            spawn("reads slowly", async move {
                let mut buffer = RecvBuf::with_capacity(1024 * 1024);
                while let Ok(1..) = far.recv(&mut buffer, LONG).await {
                    count.set(count.get() + buffer.filled().len());
                    buffer.consume(usize::MAX);
                    sleep(Duration::from_millis(20)).await;
                }
            });
            near.send_all(&vec![7; MUCH], Duration::from_millis(300)).await.unwrap();
            near.close().await;
            assert_eq!(read.get(), MUCH);
        });
    }

    #[test]
    fn connecting_tells_refusal_and_silence_apart() {
        let refused = reserve(ANY_PORT).unwrap();
        let nobody = refused.address();
        on_shard(move || {
            async move {
                let error = Stream::connect(nobody, None, LONG).await.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                // A backlog that is full: the kernel drops further SYNs.
                let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
                let full = full.unwrap();
                full.bind(&ANY_PORT.into()).unwrap();
                full.listen(0).unwrap();
                let address = full.local_addr().unwrap().as_socket().unwrap();
                let _first = Stream::connect(address, None, LONG).await.unwrap();
                let begun = Instant::now();
                let silent = Stream::connect(address, None, SOON).await.err().unwrap();
                assert_eq!(silent.kind(), ErrorKind::TimedOut);
                assert!(begun.elapsed() < Duration::from_secs(1));
            }
        });
    }

    #[test]
    fn a_connection_comes_from_the_address_that_was_asked_for() {
        on_shard(|| async {
            let listener = Listener::bind(ANY_PORT).unwrap();
            let from = std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
            let near = Stream::connect(listener.address(), Some(from), LONG).await.unwrap();
            let far = listener.accept().await.unwrap();
            assert_eq!(near.local_address().ip(), from);
            assert_eq!(far.peer_address(), near.local_address());
            let six = Some("::1".parse().unwrap());
            let error = Stream::connect(listener.address(), six, LONG).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let nobodys = Some("192.0.2.1".parse().unwrap());
            let error = Stream::connect(listener.address(), nobodys, LONG).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        });
    }

    #[test]
    fn the_last_words_reach_a_peer_that_still_talks() {
        let outside = TcpListener::bind(ANY_PORT).unwrap();
        let address = outside.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = outside.accept().unwrap();
            stream.write_all(b"one\r\ntwo\r\nthree\r\n").unwrap();
            std::thread::sleep(SOON);
            stream.write_all(b"four\r\n").unwrap();
            std::thread::sleep(SOON);
            let mut words = String::new();
            stream.read_to_string(&mut words).unwrap();
            words
        });
        on_shard(move || async move {
            let mut near = Stream::connect(address, None, LONG).await.unwrap();
            near.send_all(b"421 4.3.0 bye\r\n", LONG).await.unwrap();
            near.close().await;
        });
        assert_eq!(peer.join().unwrap(), "421 4.3.0 bye\r\n");
    }

    #[test]
    fn a_dropped_stream_is_closed_while_the_shard_is_idle() {
        on_shard(|| async {
            let (mut near, far) = pair().await;
            spawn("drops", async move {
                sleep(SOON).await;
                drop(far);
            });
            let begun = Instant::now();
            assert_eq!(near.recv(&mut RecvBuf::with_capacity(8), LONG).await.unwrap(), 0);
            assert!(begun.elapsed() < Duration::from_secs(1));
        });
    }
}

mod listeners {
    use super::*;

    #[test]
    fn an_accept_that_is_given_up_loses_no_connection() {
        on_shard(|| async {
            let listener = Listener::bind(ANY_PORT).unwrap();
            let address = listener.address();
            let mut ends = Vec::new();
            for _ in 0..200 {
                let given_up = async {
                    drop(listener.accept().await);
                    panic!("nobody has connected yet");
                };
                futures_lite::future::or(given_up, sleep(Duration::from_micros(100))).await;
                let near = Stream::connect(address, None, LONG).await.unwrap();
                let far = listener.accept().await.unwrap();
                assert_eq!(near.local_address(), far.peer_address());
                ends.push((near, far));
            }
        });
    }

    #[test]
    fn a_dropped_listener_closes_what_it_had_accepted_for_nobody() {
        on_shard(|| async {
            let listener = Listener::bind(ANY_PORT).unwrap();
            let address = listener.address();
            futures_lite::future::or(async { drop(listener.accept().await) }, sleep(SOON)).await;
            let mut near = Stream::connect(address, None, LONG).await.unwrap();
            sleep(SOON).await;
            drop(listener);
            let end = near.recv(&mut RecvBuf::with_capacity(8), LONG).await;
            assert!(matches!(end, Ok(0) | Err(_)));
            assert_ne!(end.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
            let again = Stream::connect(address, None, LONG).await.err().unwrap();
            assert_eq!(again.kind(), ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn shards_share_a_reserved_address() {
        let reservation = reserve(ANY_PORT).unwrap();
        let address = reservation.address();
        assert_ne!(address.port(), 0);
        let (sender, counts) = std::sync::mpsc::channel();
        let shards = start(&[None, None], &settings(), move |index| {
            let sender = sender.clone();
            async move {
                let listener = Listener::bind(address).unwrap();
                sender.send((index, 0)).unwrap();
                let stop = Instant::now() + Duration::from_secs(2);
                let mut count = 0;
                while Instant::now() < stop {
                    let accepted = async { Some(listener.accept().await.unwrap()) };
                    let late = async {
                        sleep(SOON).await;
                        None
                    };
                    count += usize::from(futures_lite::future::or(accepted, late).await.is_some());
                }
                sender.send((index, count)).unwrap();
            }
        })
        .unwrap();
        assert_eq!(counts.iter().take(2).count(), 2);
        for _ in 0..64 {
            std::net::TcpStream::connect(address).unwrap();
        }
        shards.join().unwrap();
        let accepted: Vec<usize> = counts.try_iter().map(|(_, count)| count).collect();
        assert_eq!(accepted.iter().sum::<usize>(), 64);
        assert!(accepted.iter().all(|&count| count > 0), "{accepted:?}");
    }

    #[test]
    fn a_port_that_anybody_uses_cannot_be_reserved() {
        let other = TcpListener::bind(ANY_PORT).unwrap();
        let taken = reserve(other.local_addr().unwrap()).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        // Even when both would share it: another instance that has not started to listen yet.
        let first = reserve(ANY_PORT).unwrap();
        let second = reserve(first.address()).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        let sharing = reservation::listen(first.address(), 1).unwrap();
        let address = first.address();
        drop(first);
        assert_eq!(reserve(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(sharing);
        assert_eq!(reserve(address).unwrap().address(), address);
    }

    #[test]
    fn a_port_with_connections_of_an_earlier_process_can_be_reserved() {
        let reservation = reserve(ANY_PORT).unwrap();
        let address = reservation.address();
        let listening = reservation::listen(address, 8).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        // Closed by the server first: its end waits out its time.
        drop(listening.accept().unwrap());
        drop(client);
        drop((listening, reservation));
        assert_eq!(reserve(address).unwrap().address(), address);
    }
}

mod mailboxes {
    use super::*;

    #[test]
    fn an_item_from_any_thread_wakes_a_sleeping_shard() {
        let (sender, mailbox) = mailbox::<u32>(4);
        let mailbox = std::sync::Mutex::new(Some(mailbox));
        let mailbox = std::sync::Arc::new(mailbox);
        let (seen, times) = std::sync::mpsc::channel();
        let shards = start(&[None], &settings(), move |_| {
            let mut mailbox = mailbox.lock().unwrap().take().unwrap();
            let seen = seen.clone();
            async move {
                while mailbox.recv().await != 99 {
                    seen.send(Instant::now()).unwrap();
                }
            }
        })
        .unwrap();
        for item in 0..5 {
            // Long enough for the shard to sleep.
            std::thread::sleep(SOON);
            let sent = Instant::now();
            sender.try_send(item).unwrap();
            let late = times.recv_timeout(LONG).unwrap() - sent;
            assert!(late < Duration::from_secs(1), "{late:?}");
        }
        sender.try_send(99).unwrap();
        shards.join().unwrap();
        assert_eq!(sender.try_send(1), Err(1));
    }

    #[test]
    fn two_shards_pass_items_to_and_fro() {
        const ROUNDS: u32 = 2000;
        let (to_zero, at_zero) = mailbox::<u32>(8);
        let (to_one, at_one) = mailbox::<u32>(8);
        let ends = [(at_zero, to_one), (at_one, to_zero)].map(Some);
        let ends = std::sync::Arc::new(std::sync::Mutex::new(ends));
        let shards = start(&[None, None], &settings(), move |index| {
            let (mut mailbox, other) = ends.lock().unwrap()[index].take().unwrap();
            async move {
                if index == 0 {
                    other.try_send(0).unwrap();
                }
                loop {
                    let item = mailbox.recv().await;
                    // The other shard may have gone after the last round.
                    let _ = other.try_send(item + 1);
                    if item + 1 >= ROUNDS {
                        return;
                    }
                }
            }
        });
        shards.unwrap().join().unwrap();
    }

    #[test]
    fn a_full_mailbox_gives_the_item_back() {
        let (sender, mut mailbox) = mailbox::<&str>(1);
        assert_eq!(mailbox.try_recv(), None);
        sender.clone().try_send("first").unwrap();
        assert_eq!(sender.try_send("second"), Err("second"));
        assert_eq!(mailbox.try_recv(), Some("first"));
        drop(mailbox);
        assert_eq!(sender.try_send("third"), Err("third"));
    }

    #[test]
    fn many_items_for_a_shard_that_does_not_look_cost_one_waker() {
        let (sender, mailbox) = mailbox::<u32>(100_000);
        let sender_of_thread = sender.clone();
        let mailbox = std::sync::Arc::new(std::sync::Mutex::new(Some(mailbox)));
        drop(sender);
        on_shard(move || {
            let mut mailbox = mailbox.lock().unwrap().take().unwrap();
            let sender = sender_of_thread.clone();
            async move {
                let thread = std::thread::spawn(move || {
                    for item in 0..100_000 {
                        sender.try_send(item).unwrap();
                    }
                });
                // The shard is blocked while more items come than a task has references.
                thread.join().unwrap();
                for item in 0..100_000 {
                    assert_eq!(mailbox.recv().await, item);
                }
            }
        });
    }
}

mod events {
    use super::*;

    #[test]
    fn a_signal_set_before_the_wait_lets_it_through_once() {
        on_shard(|| async {
            let signal = Signal::new();
            signal.set();
            signal.set();
            signal.wait().await;
            assert!(!signal.wait_for(SOON).await);
            signal.set();
            assert!(signal.wait_for(Duration::ZERO).await);
        });
    }
}

mod datagrams {
    use super::*;

    #[test]
    fn a_datagram_comes_back_whole_and_silence_times_out() {
        let server = UdpSocket::bind(ANY_PORT).unwrap();
        let address = server.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            for _ in 0..2 {
                let (length, from) = server.recv_from(&mut datagram).unwrap();
                server.send_to(&datagram[..length], from).unwrap();
            }
            server
        });
        on_shard(move || async move {
            let udp = Udp::connect(address).unwrap();
            let mut answer = [0; 2048];
            udp.send(&[7; 1232]).await.unwrap();
            assert_eq!(udp.recv(&mut answer, LONG).await.unwrap(), 1232);
            let error = udp.recv(&mut answer, SOON).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            udp.send(b"again").await.unwrap();
            assert_eq!(udp.recv(&mut answer, LONG).await.unwrap(), 5);
            assert_eq!(&answer[..5], b"again");
        });
        drop(echo.join().unwrap());
        on_shard(move || async move {
            let udp = Udp::connect(address).unwrap();
            udp.send(b"nobody there").await.unwrap();
            let error = udp.recv(&mut [0; 16], LONG).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        });
    }
}

mod files {
    use super::*;

    #[test]
    fn what_was_committed_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        on_shard(move || {
            let path = path.clone();
            async move {
                let file = File::create(&path, 8 * 1024 * 1024).await.unwrap();
                assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * 1024 * 1024);
                // More than one piece, and not a whole number of them.
                let batch: Vec<u8> = (0..2_500_001_u32).map(|at| (at % 251) as u8).collect();
                let back = file.commit(batch.clone(), 4096).await.unwrap();
                assert_eq!(back, batch);
                assert_eq!(file.commit(Vec::new(), 0).await.unwrap(), b"");
                assert_eq!(file.read(4096, batch.len()).await.unwrap(), batch);
                let reader = File::open(&path).await.unwrap();
                assert_eq!(reader.read(4096 + 251, 3).await.unwrap(), [0, 1, 2]);
                assert_eq!(reader.read(0, 0).await.unwrap(), b"");
                let beyond = reader.read(8 * 1024 * 1024 - 1, usize::MAX).await.unwrap_err();
                assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
                assert!(reader.commit(vec![1], 0).await.is_err());
                reader.close().await;
                file.close().await;
                assert_eq!(std::fs::read(&path).unwrap()[4096..][..batch.len()], batch);
            }
        });
    }

    #[test]
    fn a_recycled_file_keeps_its_content_and_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        std::fs::write(&path, b"old").unwrap();
        on_shard(move || {
            let path = path.clone();
            async move {
                let file = File::create(&path, 4096).await.unwrap();
                assert_eq!(&file.read(0, 4096).await.unwrap()[..4], b"old\0");
                drop(file);
                let shorter = File::create(&path, 10).await.unwrap();
                assert_eq!(shorter.read(0, 4096).await.unwrap().len(), 4096);
            }
        });
    }

    #[test]
    fn errors_name_the_file_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        on_shard(move || {
            let path = path.clone();
            async move {
                let error = File::open(&path).await.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert!(error.to_string().contains("segment"), "{error}");
                assert!(File::create(&path, u64::MAX).await.is_err());
                assert!(!path.exists());
                let nul = std::path::Path::new("a\0b");
                assert!(File::create(nul, 1).await.is_err());
            }
        });
    }

    #[test]
    fn a_commit_that_nobody_waits_for_is_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        let written = path.clone();
        on_shard(move || {
            let path = path.clone();
            async move {
                let file = File::create(&path, 1024 * 1024).await.unwrap();
                let commit = async { drop(file.commit(vec![7; 1024 * 1024], 0).await) };
                futures_lite::future::or(commit, yield_now()).await;
            }
        });
        assert!(std::fs::read(written).unwrap().iter().all(|&byte| byte == 7));
    }
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "takes seconds; run alone: it counts what the whole process holds"]
fn connections_leave_neither_descriptors_nor_memory() {
    on_shard(|| async {
        let listener = Listener::bind(ANY_PORT).unwrap();
        let address = listener.address();
        let served = Rc::new(Cell::new(0));
        let count = Rc::clone(&served);
        spawn("server", async move {
            loop {
                let mut stream = listener.accept().await.unwrap();
                let count = Rc::clone(&count);
                spawn("session", async move {
                    let mut buffer = RecvBuf::with_capacity(4096);
                    while let Ok(1..) = stream.recv(&mut buffer, LONG).await {
                        stream.send_all(buffer.filled(), LONG).await.unwrap();
                        buffer.consume(usize::MAX);
                    }
                    stream.close().await;
                    count.set(count.get() + 1);
                });
            }
        });
        let mut before = (0, 0);
        let begun = Instant::now();
        for round in 0..22_000 {
            if round == 2000 {
                before = (open_files(), resident());
            }
            let mut near = Stream::connect(address, None, LONG).await.unwrap();
            near.send_all(b"hello", LONG).await.unwrap();
            near.recv(&mut RecvBuf::with_capacity(64), LONG).await.unwrap();
            near.close().await;
        }
        sleep(SOON).await;
        let after = (open_files(), resident());
        println!("{} served in {:?}", served.get(), begun.elapsed());
        println!("descriptors, KiB after 2,000: {before:?}; after 20,000 more: {after:?}");
        assert_eq!(after.0, before.0);
        assert!(after.1 < before.1 + 2048);
    });
}
