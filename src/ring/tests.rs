//! The driver on the real kernel: threads, sockets and files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;

mod listeners;
mod streams;

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
    fn a_client_does_not_wait_for_all_runnable_work() {
        const TASKS: usize = 1000;
        on_shard(|| async {
            let listener = Listener::bind(ANY_PORT).unwrap();
            let _client = std::net::TcpStream::connect(listener.address()).unwrap();
            let (done, met) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
            for _ in 0..TASKS {
                let done = Rc::clone(&done);
                spawn("work", async move {
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_micros(100) {}
                    done.set(done.get() + 1);
                });
            }
            let (so_far, at) = (Rc::clone(&done), Rc::clone(&met));
            spawn_vital_ahead("listener", async move {
                let stream = listener.accept().await.unwrap();
                spawn_ahead("session", async move {
                    drop(stream);
                    at.set(Some(so_far.get()));
                });
            });
            while done.get() < TASKS || met.get().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            let met = met.get().unwrap();
            assert!(met < TASKS / 2, "the client was met after {met} of {TASKS} tasks");
        });
    }

    #[test]
    fn a_task_that_began_ahead_goes_on_among_the_others_and_ends_with_its_shard() {
        let (steps, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, ended) = (Arc::clone(&steps), Arc::clone(&over));
        on_shard(move || {
            let (steps, over) = (Arc::clone(&counted), Arc::clone(&ended));
            async move {
                for _ in 0..100 {
                    let (steps, over) = (Arc::clone(&steps), CountsItsEnd(Arc::clone(&over)));
                    spawn_ahead("client", async move {
                        let _over = over;
                        for _ in 0..10 {
                            steps.fetch_add(1, Ordering::Relaxed);
                            yield_now().await;
                        }
                        sleep(LONG * 100).await;
                    });
                }
                spawn_ahead("fails", async {
                    yield_now().await;
                    yield_now().await;
                    panic!("among the others");
                });
                while steps.load(Ordering::Relaxed) < 1000 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        });
        assert_eq!((steps.load(Ordering::Relaxed), over.load(Ordering::Relaxed)), (1000, 100));
    }

    struct CountsItsEnd(Arc<AtomicUsize>);

    impl Drop for CountsItsEnd {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_panic_in_a_vital_task_ends_the_shard_and_is_named() {
        let shards = start(&[None], &settings(), |_| async {
            spawn_vital("ends by itself", async {});
            spawn_vital("fails", async {
                sleep(Duration::from_millis(1)).await;
                panic!("on purpose")
            });
            std::future::pending::<()>().await;
        });
        let faults = shards.unwrap().join().unwrap_err();
        assert_eq!(faults, ["shard 0 panicked: task 'fails': on purpose"]);
    }

    #[test]
    fn a_panic_ends_only_its_task() {
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
    fn a_yielding_task_lets_others_run_and_the_rings_be_checked() {
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
    fn a_depth_that_is_not_allowed_is_an_error() {
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
        })
        .unwrap();
        let mut indexes: Vec<usize> = count.try_iter().collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2]);
        shards.join().unwrap();
    }

    #[test]
    fn a_pinned_shard_does_its_blocking_work_on_other_cpus() {
        let allowed = probe::allowed_cpus().unwrap();
        let [first, _, ..] = allowed[..] else { return };
        let shards = start(&[Some(first)], &settings(), move |_| {
            let all = allowed.clone();
            async move {
                // Queued behind the change of the mask.
                let folder = tempfile::tempdir().unwrap();
                drop(File::create(&folder.path().join("file"), 1).await);
                assert_eq!(probe::allowed_cpus().unwrap(), [first]);
                let blocking = glommio::executor().spawn_blocking(probe::allowed_cpus).await;
                assert_eq!(blocking.unwrap(), all);
            }
        });
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
        let shards = shards.unwrap();
        assert!(!shards.any_ended());
        let faults = shards.join().unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("shard 1 panicked: "), "{faults:?}");
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
    fn two_shards_exchange_items() {
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
    fn a_full_mailbox_returns_the_item() {
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
                // The shard is blocked while more items are sent than a task has references.
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
            udp.send(b"no peer").await.unwrap();
            let error = udp.recv(&mut [0; 16], LONG).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        });
    }
}

mod files {
    use super::*;

    #[test]
    fn committed_bytes_are_read_back() {
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
    fn a_file_is_filled_once_where_it_was_never_written_and_keeps_what_was() {
        on_shard(|| async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("segment");
            let file = File::create(&path, 8 << 20).await.unwrap();
            file.commit(vec![7; 4096], 1 << 20).await.unwrap();
            let (mut offset, mut pieces) = (0, 0);
            while let Some(end) = file.fill(offset, 1 << 20).await.unwrap() {
                assert!(end > offset && end <= 8 << 20);
                (offset, pieces) = (end, pieces + 1);
            }
            assert!(
                pieces == 0 || pieces >= 8,
                "{pieces}; none where the file system does not say what is new"
            );
            assert_eq!(file.read(1 << 20, 4096).await.unwrap(), [7; 4096]);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 << 20);
            assert_eq!(file.fill(0, 1 << 20).await.unwrap(), None, "once");
            std::fs::remove_file(&path).unwrap();
            assert!(file.fill(0, 1 << 20).await.is_err());
        });
    }

    #[test]
    fn a_commit_whose_caller_is_gone_is_completed() {
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
#[ignore = "run alone: it leaves the process without descriptors for a moment"]
fn a_connection_waits_for_a_descriptor() {
    on_shard(|| async {
        let listener = Listener::bind(ANY_PORT).unwrap();
        let address = listener.address();
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        let short = Stream::connect(address, None, Duration::from_millis(250)).await;
        assert_eq!(short.err().unwrap().raw_os_error(), Some(libc::EMFILE));
        let connecting = Stream::connect(address, None, Duration::from_secs(30));
        let giving_back = async {
            super::sleep(Duration::from_millis(300)).await;
            drop(taken);
            std::future::pending().await
        };
        futures_lite::future::or(connecting, giving_back).await.unwrap();
    });
}

#[test]
#[ignore = "run alone: it leaves the process without descriptors for a moment"]
fn a_listener_without_descriptors_pauses_and_goes_on() {
    on_shard(|| async {
        let listener = Listener::bind(ANY_PORT).unwrap();
        let _client = std::net::TcpStream::connect(listener.address()).unwrap();
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        let begun = Instant::now();
        for _ in 0..4 {
            let error = listener.accept().await.err().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        }
        // 10, 20, 40 and 80 ms.
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
        drop(taken);
        listener.accept().await.unwrap();
    });
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

#[test]
#[ignore = "takes seconds; run alone: it counts the CPU time of the whole process"]
fn an_idle_shard_costs_next_to_nothing() {
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields = stat.rsplit(") ").next().unwrap().split(' ');
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let before = ticks();
    on_shard(|| sleep(Duration::from_secs(5)));
    let used = ticks() - before;
    println!("{used} ticks of 10 ms in 5 s");
    assert!(used <= 10);
}
