//! Client and server over loopback, and each with OpenSSL; the certificates are made by the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::config::{self, Certificate, Roots};
use crate::ring::{self, Listener, RecvBuf, Stream};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

/// A self-signed certificate for `names` in two files.
fn certificate(folder: &Path, names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let file = names[0].replace('*', "star");
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let cert = folder.join(format!("{file}.pem"));
    let key = folder.join(format!("{file}.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    config::write_private(&key, &made.signing_key.serialize_pem());
    Certificate { cert, key }
}

fn tls(certificates: Vec<Certificate>, roots: Roots) -> config::Tls {
    config::Tls { certificates, only_1_3: false, roots, client_roots: None }
}

/// A client without certificates of its own.
fn client(tls: &config::Tls) -> Client {
    Client::new(tls, &ClientFiles::new(tls, &[]).unwrap()).unwrap()
}

fn on_shard<F: Future<Output = ()> + 'static>(body: impl Fn() -> F + Send + Clone + 'static) {
    let settings = ring::Settings { depth: 64, preempt: Duration::from_millis(1) };
    ring::start(&[None], &settings, move |_| body()).unwrap().join().unwrap();
}

/// What each side reports about the handshake.
type Met = (io::Result<MaybeTlsStream>, io::Result<MaybeTlsStream>);

async fn meet(server: Arc<Server>, client: &Client, trust: Trust, name: &str) -> Met {
    meet_showing(server, client, trust, None, name).await
}

/// The same, and the client presents its own certificate of this index, if there is one.
async fn meet_showing(
    server: Arc<Server>,
    client: &Client,
    trust: Trust,
    client_certificates: Option<usize>,
    name: &str,
) -> Met {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let near = Stream::connect(listener.address(), None, LONG).await.unwrap();
    let far = listener.accept().await.unwrap();
    let accepted = std::rc::Rc::new(std::cell::RefCell::new(None));
    let (there, done) = (std::rc::Rc::clone(&accepted), ring::Signal::new());
    let ended = done.clone();
    ring::spawn("server", async move {
        let mut far = MaybeTlsStream::new(far);
        let result = far.accept(&server, client_certificates.is_some(), LONG).await;
        *there.borrow_mut() = Some(result.map(|()| far));
        ended.set();
    });
    let mut near = MaybeTlsStream::new(near);
    let connected =
        near.connect(client, trust, client_certificates, name, LONG).await.map(|()| near);
    done.wait().await;
    let accepted = accepted.borrow_mut().take().unwrap();
    (connected, accepted)
}

#[test]
fn bytes_of_any_number_pass_unchanged_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let one = certificate(folder.path(), &["relay.test"]);
    on_shard(move || {
        let tls = tls(vec![one.clone()], Roots::System);
        async move {
            let server = Arc::new(Server::new(&tls).unwrap().unwrap());
            let client = client(&tls);
            let (near, far) = meet(server, &client, Trust::Anyone, "relay.test").await;
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            let security = near.security().unwrap();
            assert_eq!((security.version, security.resumed), ("TLSv1.3", false));
            assert_eq!(&*security.cipher, "TLS_AES_128_GCM_SHA256", "whatever the client prefers");
            let there = far.security().unwrap();
            assert!(there.end_point.is_some(), "the server has the hash of its certificate");
            assert_eq!(Security { end_point: None, ..there }, security);

            let sent: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
            let expected = sent.clone();
            ring::spawn("writer", async move {
                far.send_all(&sent, LONG).await.unwrap();
                far.close().await;
            });
            let mut buffer = RecvBuf::with_capacity(64 * 1024);
            let mut received = Vec::new();
            while near.recv(&mut buffer, LONG).await.unwrap() > 0 {
                received.extend_from_slice(buffer.filled());
                buffer.consume(usize::MAX);
            }
            assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
        }
    });
}

#[test]
fn a_receive_that_times_out_leaves_the_connection_usable() {
    let folder = tempfile::tempdir().unwrap();
    let one = certificate(folder.path(), &["relay.test"]);
    on_shard(move || {
        let tls = tls(vec![one.clone()], Roots::System);
        async move {
            let server = Arc::new(Server::new(&tls).unwrap().unwrap());
            let client = client(&tls);
            let (near, far) = meet(server, &client, Trust::Anyone, "127.0.0.1").await;
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            let mut buffer = RecvBuf::with_capacity(64);
            for _ in 0..3 {
                let soon = Duration::from_millis(20);
                let error = far.recv(&mut buffer, soon).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                assert_eq!(far.try_recv(&mut buffer).unwrap(), None);
                near.send_all(b"after", LONG).await.unwrap();
                assert_eq!(far.recv(&mut buffer, LONG).await.unwrap(), 5);
                assert_eq!(buffer.filled(), b"after");
                buffer.consume(5);
            }
        }
    });
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let one = certificate(folder.path(), &["relay.test"]);
    on_shard(move || {
        let tls = tls(vec![one.clone()], Roots::System);
        async move {
            let server = Arc::new(Server::new(&tls).unwrap().unwrap());
            let client = client(&tls);
            for resumed in [false, true] {
                let server = Arc::clone(&server);
                let (near, far) = meet(server, &client, Trust::Anyone, "relay.test").await;
                let (mut near, mut far) = (near.unwrap(), far.unwrap());
                assert_eq!(near.security().unwrap().resumed, resumed);
                // The ticket arrives after the handshake, with the first bytes.
                far.send_all(b"220", LONG).await.unwrap();
                let mut buffer = RecvBuf::with_capacity(64);
                near.recv(&mut buffer, LONG).await.unwrap();
            }
        }
    });
}

#[test]
fn the_certificate_is_chosen_by_the_name_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let first = certificate(folder.path(), &["first.test"]);
    let second = certificate(folder.path(), &["Second.test", "*.second.test"]);
    on_shard(move || {
        let certificates = vec![first.clone(), second.clone()];
        async move {
            let server = tls(certificates.clone(), Roots::System);
            let server = Arc::new(Server::new(&server).unwrap().unwrap());
            for (name, root, matches) in [
                ("first.test", 0, true),
                ("second.test", 1, true),
                ("a.second.test", 1, true),
                ("a.b.second.test", 1, false),
                ("second.test", 0, false),
                ("third.test", 0, false),
            ] {
                let roots = Roots::File(certificates[root].cert.clone());
                let client = client(&tls(Vec::new(), roots));
                let server = Arc::clone(&server);
                let (near, _) = meet(Arc::clone(&server), &client, Trust::Verified, name).await;
                match near {
                    Ok(_) => assert!(matches, "{name}"),
                    Err(error) => {
                        assert!(!matches, "{name}: {error}");
                        assert_eq!(error.kind(), ErrorKind::InvalidData);
                        assert!(error.to_string().contains("certificate"), "{error}");
                    }
                }
                let (anyone, _) = meet(server, &client, Trust::Anyone, name).await;
                anyone.unwrap();
            }
        }
    });
}

#[test]
fn a_new_certificate_is_used_after_a_reload_and_a_bad_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path(), &["relay.test"]);
    let old_root = folder.path().join("old.pem");
    std::fs::copy(&files.cert, &old_root).unwrap();
    on_shard(move || {
        let (files, old_root) = (files.clone(), old_root.clone());
        async move {
            let shown = tls(vec![files.clone()], Roots::System);
            let server = Arc::new(Server::new(&shown).unwrap().unwrap());
            let client = |root: &Path| client(&tls(Vec::new(), Roots::File(root.to_owned())));
            let old = client(&old_root);
            let meet_old = meet(Arc::clone(&server), &old, Trust::Verified, "relay.test").await;
            assert!(meet_old.0.is_ok());

            let pem = std::fs::read(&files.cert).unwrap();
            std::fs::write(&files.cert, b"nonsense").unwrap();
            let error = server.reload(&shown).unwrap_err().to_string();
            assert!(error.contains("relay.test.pem: "), "{error}");
            std::fs::write(&files.cert, pem).unwrap();

            let renewed = certificate(files.cert.parent().unwrap(), &["relay.test"]);
            assert_eq!(renewed, files, "in the same files");
            server.reload(&shown).unwrap();
            let new = client(&files.cert);
            let (near, _) = meet(Arc::clone(&server), &new, Trust::Verified, "relay.test").await;
            assert!(near.is_ok());
            let fresh = client(&old_root);
            assert!(meet(server, &fresh, Trust::Verified, "relay.test").await.0.is_err());
        }
    });
}

#[test]
fn client_certificates_are_reloaded_too() {
    let folder = tempfile::tempdir().unwrap();
    let host = certificate(folder.path(), &["host.test"]);
    let files = certificate(folder.path(), &["relay.test"]);
    on_shard(move || {
        let (host, files) = (host.clone(), files.clone());
        async move {
            let tls = tls(vec![host.clone()], Roots::System);
            let server = Arc::new(Server::new(&tls).unwrap().unwrap());
            let client_files = ClientFiles::new(&tls, std::slice::from_ref(&files)).unwrap();
            let client = Client::new(&tls, &client_files).unwrap();
            let seen = async |name: &str| {
                let server = Arc::clone(&server);
                let met = meet_showing(server, &client, Trust::Anyone, Some(0), name).await;
                met.0.unwrap();
                met.1.unwrap().security().unwrap().client_fingerprint.unwrap()
            };
            let first = seen("a.test").await;
            let folder = files.cert.parent().unwrap();
            assert_eq!(certificate(folder, &["relay.test"]), files, "in the same files");
            assert_eq!(seen("b.test").await, first, "not read yet");
            assert_eq!(client_files.reload_certificates().unwrap(), 1);
            let second = seen("c.test").await;
            assert_ne!(second, first);
            std::fs::write(&files.cert, b"nonsense").unwrap();
            assert!(client_files.reload_certificates().is_err());
            assert_eq!(seen("d.test").await, second);
        }
    });
}

#[test]
fn errors_name_the_wrong_file() {
    let folder = tempfile::tempdir().unwrap();
    let one = certificate(folder.path(), &["one.test"]);
    let other = certificate(folder.path(), &["other.test"]);
    let fault = |cert: &Path, key: &Path| {
        // Without this, the file's mode would be the error.
        if let Ok(text) = std::fs::read_to_string(key) {
            config::write_private(key, &text);
        }
        let files = Certificate { cert: cert.to_owned(), key: key.to_owned() };
        Server::new(&tls(vec![files], Roots::System)).unwrap_err().to_string()
    };
    let missing = folder.path().join("missing.pem");
    assert!(fault(&missing, &one.key).contains("missing.pem: No such file"));
    assert!(fault(&one.cert, &missing).contains("missing.pem: No such file"));
    assert!(fault(&one.key, &one.key).contains("one.test.key: no certificate in it"));
    assert!(fault(&one.cert, &one.cert).contains("one.test.pem: no such item in it"));
    let exchanged = fault(&one.cert, &other.key);
    assert!(exchanged.contains("other.test.key: not the key of"), "{exchanged}");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&one.key, open).unwrap();
    let error = Server::new(&tls(vec![one], Roots::System)).unwrap_err().to_string();
    assert!(error.contains("one.test.key: its mode is 644, so others could read"), "{error}");
    assert!(Server::new(&tls(Vec::new(), Roots::System)).unwrap().is_none());
}

#[test]
fn bytes_that_are_not_tls_end_the_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let one = certificate(folder.path(), &["relay.test"]);
    on_shard(move || {
        let tls = tls(vec![one.clone()], Roots::System);
        async move {
            let server = Server::new(&tls).unwrap().unwrap();
            for bytes in [&b"EHLO client.test\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0\0\0\0\0\0"] {
                let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                let address = listener.address();
                let mut near = Stream::connect(address, None, LONG).await.unwrap();
                let mut far = MaybeTlsStream::new(listener.accept().await.unwrap());
                near.send_all(bytes, LONG).await.unwrap();
                near.close().await;
                assert!(far.accept(&server, false, LONG).await.is_err(), "{bytes:?}");
                assert!(far.security().is_none());
            }
        }
    });
}

/// Runs `openssl` in `folder`.
fn openssl(folder: &Path, words: &[&str]) {
    let done = std::process::Command::new("openssl").args(words).current_dir(folder).output();
    let done = done.expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A TLS server by OpenSSL with this key (arguments of `req -newkey`) and a certificate of X.509 v1
/// or v3, until it is dropped.
struct OpensslServer {
    process: std::process::Child,
    port: u16,
}

impl OpensslServer {
    fn start(folder: &Path, name: &str, key: &[&str], v1: bool) -> OpensslServer {
        let file = |end: &str| format!("{name}.{end}");
        let (pem, secret, request) = (file("pem"), file("key"), file("csr"));
        let subject = ["-nodes", "-subj", "/CN=mx.test", "-keyout", &secret];
        if v1 {
            openssl(folder, &[&["req", "-newkey"], key, &subject, &["-out", &request]].concat());
            let sign = ["x509", "-req", "-in", &request, "-signkey", &secret, "-out", &pem];
            openssl(folder, &sign);
        } else {
            let new = ["req", "-x509", "-newkey"];
            openssl(folder, &[&new, key, &subject, &["-out", &pem]].concat());
        }
        // A port chosen by the kernel; another test may take it meanwhile, then we try again.
        for _ in 0..20 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let address = format!("127.0.0.1:{port}");
            let process = std::process::Command::new("openssl")
                .args(["s_server", "-accept", &address, "-cert", &pem, "-key", &secret, "-quiet"])
                .args(["-cipher", "ALL:@SECLEVEL=0"])
                .current_dir(folder)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let mut server = OpensslServer { process, port };
            for _ in 0..100 {
                std::thread::sleep(Duration::from_millis(50));
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return server;
                }
                if server.process.try_wait().unwrap().is_some() {
                    break;
                }
            }
        }
        panic!("openssl s_server does not start");
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn any_certificate_is_accepted_unless_verified_and_an_error_names_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rsa_2048 = ["rsa:2048"];
    let p521 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];
    let old = "it is X.509 version 1, which cannot carry the name to verify; version 3 is needed";
    for (name, key, v1, reason) in [
        ("v1-rsa", &rsa_2048[..], true, old),
        ("v1-p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], true, old),
        ("v3-rsa1024", &["rsa:1024"], false, "certificate"),
        ("v3-p521", &p521, false, ""),
        ("v3-ed448", &["ed448"], false, ""),
        ("v3-rsa", &rsa_2048, false, "certificate"),
    ] {
        let server = OpensslServer::start(folder, name, key, v1);
        // A certificate that is not the server's.
        let other = certificate(folder, &["other.test"]);
        let port = server.port;
        on_shard(move || {
            let tls = tls(Vec::new(), Roots::File(other.cert.clone()));
            async move {
                let client = client(&tls);
                let address = format!("127.0.0.1:{port}").parse().unwrap();
                let connect = async |trust, host: &str| {
                    let stream = Stream::connect(address, None, LONG).await.unwrap();
                    let mut stream = MaybeTlsStream::new(stream);
                    stream.connect(&client, trust, None, host, LONG).await
                };
                for host in ["mx.test", "mx-.test", "-mx.test", "mx.test-", "mx.123", "a_b.test"] {
                    let connected = connect(Trust::Anyone, host).await;
                    assert!(connected.is_ok(), "{name}, {host}: {connected:?}");
                }
                let error = connect(Trust::Verified, "mx.test").await.unwrap_err().to_string();
                assert!(error.contains(reason), "{name}: {error}");
                for host in ["mx-.test", "mx.123"] {
                    let error = connect(Trust::Verified, host).await.unwrap_err().to_string();
                    assert!(error.contains("is not a host name that a certificate"), "{error}");
                }
            }
        });
    }
}

#[test]
fn a_client_with_a_certificate_of_any_version_proves_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let host = certificate(folder.path(), &["relay.test"]);
    openssl(
        folder.path(),
        &[
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=joe", "-keyout", "joe.key",
            "-out", "joe.csr",
        ],
    );
    openssl(
        folder.path(),
        &["x509", "-req", "-in", "joe.csr", "-signkey", "joe.key", "-out", "joe.pem"],
    );
    let folder = folder.path().to_owned();
    on_shard(move || {
        let (host, folder) = (host.clone(), folder.clone());
        async move {
            let server = Server::new(&tls(vec![host], Roots::System)).unwrap().unwrap();
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            for version in ["-tls1_2", "-tls1_3"] {
                let mut joe = std::process::Command::new("openssl")
                    .args(["s_client", "-connect", &listener.address().to_string(), version])
                    .args(["-cert", "joe.pem", "-key", "joe.key", "-quiet"])
                    .current_dir(&folder)
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap();
                let mut stream = MaybeTlsStream::new(listener.accept().await.unwrap());
                let accepted = stream.accept(&server, true, LONG).await;
                assert!(accepted.is_ok(), "{version}: {accepted:?}");
                assert!(stream.security().unwrap().client_fingerprint.is_some(), "{version}");
                let _ = joe.kill();
                let _ = joe.wait();
            }
        }
    });
}

#[test]
fn a_removed_root_is_no_longer_trusted_not_even_for_a_resumed_session() {
    let folder = tempfile::tempdir().unwrap();
    let host = certificate(folder.path(), &["relay.test"]);
    let other = certificate(folder.path(), &["other.test"]);
    let roots = folder.path().join("roots.pem");
    on_shard(move || {
        let (host, other, roots) = (host.clone(), other.clone(), roots.clone());
        async move {
            std::fs::copy(&host.cert, &roots).unwrap();
            let tls = tls(vec![host.clone()], Roots::File(roots.clone()));
            let server = Arc::new(Server::new(&tls).unwrap().unwrap());
            let files = ClientFiles::new(&tls, &[]).unwrap();
            let client = Client::new(&tls, &files).unwrap();
            // Whether the session was resumed, or why there is no connection.
            let meet = async || {
                let (near, far) =
                    meet(Arc::clone(&server), &client, Trust::Verified, "relay.test").await;
                let mut near = near?;
                far.unwrap().send_all(b"220", LONG).await.unwrap();
                near.recv(&mut RecvBuf::with_capacity(64), LONG).await.unwrap();
                io::Result::Ok(near.security().unwrap().resumed)
            };
            assert!(!meet().await.unwrap());
            assert!(meet().await.unwrap());
            assert_eq!(files.reload_roots().unwrap(), 1);
            assert_eq!(client.generation(), 0);
            assert!(meet().await.unwrap(), "the same roots: the session is good");
            std::fs::write(&roots, "nonsense").unwrap();
            assert!(files.reload_roots().is_err());
            assert!(meet().await.unwrap(), "the old ones stay");
            std::fs::copy(&other.cert, &roots).unwrap();
            assert_eq!(files.reload_roots().unwrap(), 1);
            assert_eq!(client.generation(), 1);
            assert!(meet().await.is_err());
            std::fs::copy(&host.cert, &roots).unwrap();
            files.reload_roots().unwrap();
            assert!(!meet().await.unwrap());
        }
    });
}
