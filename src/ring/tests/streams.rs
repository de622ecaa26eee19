//! Connections: order, deadlines, interrupts, fairness, endings.

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
fn available_bytes_can_be_received_without_waiting() {
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
fn a_send_continues_as_long_as_the_peer_reads_now_and_then() {
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
fn a_stream_that_never_has_to_wait_lets_other_tasks_run() {
    on_shard(|| async {
        let (mut near, mut far) = pair().await;
        // As much as the kernel accepts: more than is read below.
        let full = far.send_all(&vec![0; 64 * 1024 * 1024], SOON).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::TimedOut);
        let turns = Rc::new(Cell::new(0));
        let count = Rc::clone(&turns);
        spawn("wants a turn", async move {
            loop {
                sleep(Duration::from_micros(100)).await;
                count.set(count.get() + 1);
            }
        });
        yield_now().await;
        let mut buffer = RecvBuf::with_capacity(4);
        for _ in 0..100_000 {
            assert_eq!(near.recv(&mut buffer, LONG).await.unwrap(), 4);
            buffer.consume(4);
        }
        assert!(turns.get() >= 2, "{} turns", turns.get());
    });
}

#[test]
fn connecting_distinguishes_refusal_and_silence() {
    let refused = reserve(ANY_PORT).unwrap();
    let closed = refused.address();
    on_shard(move || {
        async move {
            let error = Stream::connect(closed, None, LONG).await.err().unwrap();
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
fn a_connection_comes_from_the_requested_address() {
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
fn the_last_reply_reaches_a_peer_that_is_still_sending() {
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
