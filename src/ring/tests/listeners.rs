//! Listening: lost and leftover connections, sharing and reserving a port.

use super::*;

#[test]
fn a_dropped_accept_loses_no_connection() {
    on_shard(|| async {
        let listener = Listener::bind(ANY_PORT).unwrap();
        let address = listener.address();
        let mut ends = Vec::new();
        for _ in 0..200 {
            let given_up = async {
                drop(listener.accept().await);
                panic!("no client has connected yet");
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
fn a_dropped_listener_closes_connections_that_were_not_taken() {
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
fn a_port_in_use_cannot_be_reserved() {
    let other = TcpListener::bind(ANY_PORT).unwrap();
    let taken = reserve(other.local_addr().unwrap()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    // Not even if both would share it: another instance that does not listen yet.
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
    // Closed by the server first: its side is in TIME_WAIT.
    drop(listening.accept().unwrap());
    drop(client);
    drop((listening, reservation));
    assert_eq!(reserve(address).unwrap().address(), address);
}
