//! SCRAM-SHA-256 (RFC 5802 with the hash of RFC 7677), server and client. Its -PLUS form binds to
//! the exporter of TLS 1.3 (RFC 9266) or, of the server alone, to its certificate (RFC 5929 4).

use super::{Fault, Secret, decode, encode, prepare};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Digest as _;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Most rounds that a server may ask of a client: more would cost all other work on the same core
/// its time. OWASP recommends 600,000 today.
const ITERATIONS_MAX: u32 = 1_000_000;
/// RFC 7677 4.
const ITERATIONS_MIN: u32 = 4096;

const SCHEME: &str = "SCRAM-SHA-256$";

type Hash = [u8; 32];

/// A keyed hash, HMAC-SHA-256.
pub type Digest = Hash;

/// How the header of a bound exchange begins.
const EXPORTER: &str = "p=tls-exporter";
const END_POINT: &str = "p=tls-server-end-point";

/// What an exchange can be bound to: bytes that are the same at both ends of the TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// tls-exporter (RFC 9266): of TLS 1.3.
    pub exporter: Option<[u8; 32]>,
    /// tls-server-end-point (RFC 5929 4): the hash of the server's certificate.
    pub end_point: Option<Vec<u8>>,
}

impl Channels {
    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.exporter.is_some() || self.end_point.is_some()
    }

    /// Their names, for messages.
    pub fn names(&self) -> String {
        let names = [
            self.exporter.as_ref().map(|_| "tls-exporter"),
            self.end_point.as_ref().map(|_| "tls-server-end-point"),
        ];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" and ") }
    }

    /// What the client must have bound to; `None` when that is not to be had.
    pub(super) fn data(&self, binding: Binding) -> Option<&[u8]> {
        match binding {
            Binding::None | Binding::NotOffered => Some(&[]),
            Binding::Exporter => self.exporter.as_ref().map(<[u8; 32]>::as_slice),
            Binding::EndPoint => self.end_point.as_deref(),
        }
    }
}

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Rounds of the hash.
    pub iterations: u32,
    /// Sixteen random bytes or more.
    pub salt: Vec<u8>,
    /// Proves that the client has the password.
    pub stored_key: Hash,
    /// Proves to the client that the server has these keys.
    pub server_key: Hash,
}

/// `SCRAM-SHA-256$ROUNDS:SALT$STORED_KEY:SERVER_KEY`, a common form (RFC 5803).
impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (salt, stored) = (encode(&self.salt), encode(&self.stored_key));
        let server = encode(&self.server_key);
        write!(f, "{SCHEME}{}:{salt}${stored}:{server}", self.iterations)
    }
}

/// Keys are secrets, too.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} rounds)", self.iterations)
    }
}

impl Keys {
    /// Reads what `Display` has written; `None` for anything else.
    pub fn parse(text: &str) -> Option<Keys> {
        let (rounds_and_salt, keys) = text.strip_prefix(SCHEME)?.split_once('$')?;
        let (rounds, salt) = rounds_and_salt.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| Hash::try_from(decode(text.as_bytes())?).ok();
        let iterations = rounds.parse().ok();
        Some(Keys {
            iterations: iterations.filter(|n| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(n))?,
            salt: decode(salt.as_bytes()).filter(|salt| !salt.is_empty())?,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    /// The keys of `password`, which is already prepared. Costs `iterations` rounds.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Keys {
        let salted = salted(password, salt, iterations);
        Keys {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(keyed(&salted, b"Client Key")).into(),
            server_key: keyed(&salted, b"Server Key"),
        }
    }
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// The user that the client claims to be.
    pub user: String,
    binding: Binding,
    nonce: String,
    header: String,
    bare: String,
}

/// What a client says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// It cannot.
    None,
    /// It could, and has not seen that the server can.
    NotOffered,
    /// It binds to the TLS exporter.
    Exporter,
    /// It binds to the certificate of the server.
    EndPoint,
}

impl ClientFirst {
    /// Reads it (RFC 5802 7, client-first-message).
    ///
    /// # Errors
    /// Another form; a channel binding that is not known; one that acts for another.
    pub fn read(message: &[u8]) -> Result<ClientFirst, Fault> {
        let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
        let mut parts = text.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::Malformed);
        };
        let bound = match binding {
            "n" => Binding::None,
            "y" => Binding::NotOffered,
            EXPORTER => Binding::Exporter,
            END_POINT => Binding::EndPoint,
            _ if binding.starts_with("p=") => return Err(Fault::ChannelBinding),
            _ => return Err(Fault::Malformed),
        };
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|one| one.strip_prefix("n="));
        let user = name.and_then(read_name).ok_or(Fault::Malformed)?;
        let nonce = attributes.next().and_then(|one| one.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| is_nonce(nonce)).ok_or(Fault::Malformed)?.to_owned();
        match identity.strip_prefix("a=") {
            None if identity.is_empty() => {}
            Some(other) if read_name(other).as_ref() == Some(&user) => {}
            Some(_) => return Err(Fault::OtherIdentity),
            None => return Err(Fault::Malformed),
        }
        let header = format!("{binding},{identity},");
        Ok(ClientFirst { user, binding: bound, nonce, header, bare: bare.to_owned() })
    }

    /// What it says of channel binding.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// The server's first message, and what is expected in answer. `nonce` is random, printable,
    /// without a comma; `channel` is what the client must have bound to, if it binds.
    pub fn challenge(self, keys: Keys, nonce: &str, channel: &[u8]) -> (Challenge, String) {
        let nonce = format!("{}{nonce}", self.nonce);
        let message = format!("r={nonce},s={},i={}", encode(&keys.salt), keys.iterations);
        let said = format!("{},{message}", self.bare);
        let header = encode(&[self.header.as_bytes(), channel].concat());
        (Challenge { user: self.user, keys, nonce, said, header }, message)
    }
}

/// A server that waits for the client's proof.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The user that the client claims to be.
    pub user: String,
    keys: Keys,
    nonce: String,
    said: String,
    header: String,
}

impl Challenge {
    /// Checks the client's final message; the server's own, which proves that it has the keys.
    ///
    /// # Errors
    /// Another form, or a proof that is wrong.
    pub fn verify(&self, message: &[u8]) -> Result<String, Fault> {
        let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(Fault::Malformed)?;
        let proof = decode(proof.as_bytes()).ok_or(Fault::Malformed)?;
        let proof: Hash = proof.try_into().map_err(|_| Fault::Malformed)?;
        let mut attributes = unproven.split(',');
        let header = attributes.next().and_then(|one| one.strip_prefix("c="));
        let nonce = attributes.next().and_then(|one| one.strip_prefix("r="));
        if header.is_none() || nonce.is_none() {
            return Err(Fault::Malformed);
        }
        let said = format!("{},{unproven}", self.said);
        let signature = keyed(&self.keys.stored_key, said.as_bytes());
        let client_key = xor(proof, &signature);
        let stored_key: Hash = Sha256::digest(client_key).into();
        let proven = bool::from(stored_key.ct_eq(&self.keys.stored_key));
        if !proven || nonce != Some(&self.nonce) {
            return Err(Fault::Proof);
        }
        // The client has the password, and sees another connection than the server does.
        if header != Some(&self.header) {
            return Err(Fault::ChannelBinding);
        }
        Ok(format!("v={}", encode(&keyed(&self.keys.server_key, said.as_bytes()))))
    }
}

/// A client that has named its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    nonce: String,
    bare: String,
    /// As it stands in the final message.
    header: String,
}

impl Client {
    /// A client, and its first message. `nonce` is random, printable, without a comma; `channel` is
    /// the exporter of the TLS connection when the server offers to bind to it.
    pub fn begin(user: &str, nonce: &str, channel: Option<[u8; 32]>) -> (Client, String) {
        let bare = format!("n={},r={nonce}", write_name(user));
        let header = if channel.is_some() { format!("{EXPORTER},,") } else { "n,,".to_owned() };
        let message = format!("{header}{bare}");
        let data = channel.as_ref().map_or(&[][..], <[u8; 32]>::as_slice);
        let header = encode(&[header.as_bytes(), data].concat());
        (Client { nonce: nonce.to_owned(), bare, header }, message)
    }

    /// A client with this header and the data behind it, whatever they are.
    #[cfg(test)]
    pub(super) fn bound(user: &str, nonce: &str, header: &[u8]) -> Client {
        let bare = format!("n={user},r={nonce}");
        Client { nonce: nonce.to_owned(), bare, header: encode(header) }
    }

    /// Answers the server's first message with the final one. Costs as many rounds as the server
    /// asks for, within bounds.
    ///
    /// # Errors
    /// Another form; fewer rounds than RFC 7677 allows, or absurdly many.
    pub fn prove(&self, message: &[u8], password: &Secret) -> Result<(Expected, String), Fault> {
        let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
        let mut attributes = text.split(',');
        let mut value = |key| attributes.next().and_then(|one| one.strip_prefix(key));
        let (nonce, salt, rounds) = (value("r="), value("s="), value("i="));
        let nonce = nonce.ok_or(Fault::Malformed)?;
        let is_ours = nonce.strip_prefix(self.nonce.as_str()).is_some_and(is_nonce);
        let salt = salt.and_then(|salt| decode(salt.as_bytes())).ok_or(Fault::Malformed)?;
        let rounds: u32 = rounds.and_then(|rounds| rounds.parse().ok()).ok_or(Fault::Malformed)?;
        if !is_ours || !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&rounds) {
            return Err(Fault::Malformed);
        }
        let password = prepare(password.reveal()).ok_or(Fault::Malformed)?;
        let salted = salted(&password, &salt, rounds);
        let unproven = format!("c={},r={nonce}", self.header);
        let said = format!("{},{text},{unproven}", self.bare);
        let client_key = keyed(&salted, b"Client Key");
        let stored_key: Hash = Sha256::digest(client_key).into();
        let proof = xor(client_key, &keyed(&stored_key, said.as_bytes()));
        let signature = keyed(&keyed(&salted, b"Server Key"), said.as_bytes());
        Ok((Expected(signature), format!("{unproven},p={}", encode(&proof))))
    }
}

/// What only a server that knows the password can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(Hash);

impl Expected {
    /// Checks the server's final message.
    ///
    /// # Errors
    /// It does not know the password.
    pub fn check(&self, message: &[u8]) -> Result<(), Fault> {
        let value = message.strip_prefix(b"v=").and_then(decode).ok_or(Fault::Proof)?;
        if bool::from(value.ct_eq(&self.0)) { Ok(()) } else { Err(Fault::Proof) }
    }
}

fn salted(password: &str, salt: &[u8], iterations: u32) -> Hash {
    let mut salted = Hash::default();
    // Fails only for keys that an HMAC does not take, and it takes all.
    let _ = pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), salt, iterations, &mut salted);
    salted
}

/// HMAC-SHA-256 of `message`.
pub fn keyed(key: &[u8], message: &[u8]) -> Digest {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac.chain_update(message).finalize().into_bytes().into(),
        // An HMAC takes keys of any length.
        Err(_) => Hash::default(),
    }
}

fn xor(mut bytes: Hash, other: &Hash) -> Hash {
    bytes.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
    bytes
}

/// Printable ASCII but the comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| (33..=126).contains(&byte) && byte != b',')
}

/// A name, its commas and equals signs escaped (RFC 5802 5.1).
pub(super) fn write_name(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// A name with its commas and equals signs escaped (RFC 5802 5.1).
pub(super) fn read_name(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        let (escape, after) = after.split_at_checked(2)?;
        name.push(match escape {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = after;
    }
    name.push_str(rest);
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // RFC 7677 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn keys() -> Keys {
        Keys::derive("pencil", &decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
    }

    #[test]
    fn keys_are_written_and_read() {
        let text = keys().to_string();
        assert!(text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"), "{text}");
        assert_eq!(Keys::parse(&text), Some(keys()));
        for wrong in ["", "x", &text[1..], &text[..text.len() - 4], &text.replace("4096", "1")] {
            assert_eq!(Keys::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_server_speaks_the_example_of_rfc_7677() {
        let first = ClientFirst::read(CLIENT_FIRST.as_bytes()).unwrap();
        assert_eq!(first.user, "user");
        let (challenge, message) = first.challenge(keys(), SERVER_NONCE, &[]);
        assert_eq!(message, SERVER_FIRST);
        assert_eq!(challenge.verify(CLIENT_FINAL.as_bytes()).unwrap(), SERVER_FINAL);
    }

    #[test]
    fn the_client_speaks_the_example_of_rfc_7677() {
        let (client, message) = Client::begin("user", "rOprNGfwEbeRWgbNEkqO", None);
        assert_eq!(message, CLIENT_FIRST);
        let password = Secret::new("pencil");
        let (expected, message) = client.prove(SERVER_FIRST.as_bytes(), &password).unwrap();
        assert_eq!(message, CLIENT_FINAL);
        assert_eq!(expected.check(SERVER_FINAL.as_bytes()), Ok(()));
        for wrong in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "e=other-error", ""] {
            assert_eq!(expected.check(wrong.as_bytes()), Err(Fault::Proof));
        }
    }

    #[test]
    fn a_proof_of_another_password_or_another_exchange_is_none() {
        let challenge = |first: &str, nonce: &str| {
            ClientFirst::read(first.as_bytes()).unwrap().challenge(keys(), nonce, &[]).0
        };
        let right = challenge(CLIENT_FIRST, SERVER_NONCE);
        let other = CLIENT_FINAL.replace("p=d", "p=e");
        assert_eq!(right.verify(other.as_bytes()), Err(Fault::Proof));
        let again = challenge(CLIENT_FIRST, "another");
        assert_eq!(again.verify(CLIENT_FINAL.as_bytes()), Err(Fault::Proof));
        let downgraded = challenge(&CLIENT_FIRST.replace("n,,", "y,,"), SERVER_NONCE);
        let other_header = downgraded.verify(CLIENT_FINAL.as_bytes());
        assert_eq!(other_header, Err(Fault::ChannelBinding));
        for wrong in ["", "c=biws", "c=biws,r=x", "c=biws,r=x,p=!", "c=biws,r=x,p=dHzb", "x,y,p="] {
            assert_eq!(right.verify(wrong.as_bytes()), Err(Fault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn first_messages_are_read_to_the_letter() {
        let read = |text: &str| ClientFirst::read(text.as_bytes()).map(|first| first.user);
        assert_eq!(read("y,,n=a=2Cb=3Dc,r=x").unwrap(), "a,b=c");
        assert_eq!(read("n,a=user,n=user,r=x,future=1").unwrap(), "user");
        assert_eq!(read("n,a=admin,n=user,r=x"), Err(Fault::OtherIdentity));
        assert_eq!(read("p=tls-unique,,n=user,r=x"), Err(Fault::ChannelBinding));
        assert_eq!(read("p=tls-exporter,,n=user,r=x").unwrap(), "user");
        assert_eq!(read("p=tls-server-end-point,,n=user,r=x").unwrap(), "user");
        for wrong in
            ["", "n,,", "n,,n=,r=x", "n,,n=a,r=", "n,,m=1,n=a,r=x", "x,,n=a,r=x", "n,,n=a=2X,r=x"]
        {
            assert_eq!(read(wrong), Err(Fault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn a_server_that_asks_too_little_or_too_much_gets_nothing() {
        let (client, _) = Client::begin("user", "abc", None);
        let ask = |text: &str| client.prove(text.as_bytes(), &Secret::new("pencil")).is_ok();
        assert!(ask("r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        for wrong in ["r=abc,s=W22Z,i=4096", "r=xbcd,s=W22Z,i=4096", "r=abcd,s=W22Z,i=4095"] {
            assert!(!ask(wrong), "{wrong}");
        }
        assert!(!ask("r=abcd,s=W22Z,i=1000001") && !ask("r=abcd,s=W22Z") && !ask(""));
    }
}
