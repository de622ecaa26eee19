//! The parsers: lines, content, commands, addresses, replies of servers, PROXY headers.

use crate::inputs::cuts;
use ringpost::listener::proxy::{self, Header};
use ringpost::message::{Address, domain_key};
use ringpost::smtp::{
    self, ContentLimits, ContentScanner, Defect, END_LENGTH, Framing, Line, OddDots, Offered,
    RcptSyntax, ResponseReader, Scanned, Syntax, Verb,
};

/// A line does not depend on what follows it, and has neither CR nor LF.
pub fn scanner(input: &[u8], seed: u64) {
    let line_max = 64 + seed as usize % 1000;
    let whole = smtp::scan(input, line_max);
    if let Line::Complete(line) = whole {
        assert!(!line.contains(&b'\r') && !line.contains(&b'\n'));
        assert!(line.len() + 2 <= line_max);
    }
    for cut in 0..input.len().min(2 * line_max) {
        let part = smtp::scan(&input[..cut], line_max);
        assert!(part == Line::Incomplete || part == whole, "cut at {cut}");
    }
}

const LIMITS: ContentLimits = ContentLimits { bytes_max: 2000, line_max: 500, received_max: 3 };

/// The stored content, whether and where the end was found, and the defect.
type Found = (Vec<u8>, Option<usize>, Option<Defect>);

fn scan_content(input: &[u8], framing: Framing, cuts: &[usize]) -> Found {
    let mut scanner = ContentScanner::new(LIMITS, framing);
    let mut kept = Vec::new();
    let mut used = 0;
    for &cut in cuts {
        loop {
            match scanner.scan(&input[used..cut.max(used)]) {
                Scanned::Content(length) => {
                    kept.extend_from_slice(&input[used..used + length]);
                    used += length;
                }
                Scanned::Stuffing => {
                    assert_ne!(framing, Framing::Dots);
                    kept.push(input[used]);
                }
                Scanned::End => {
                    assert_eq!(framing, Framing::Dots);
                    return (kept, Some(used + END_LENGTH), scanner.defect());
                }
                Scanned::Short => break,
            }
        }
    }
    if framing != Framing::Dots && scanner.lacks_line_end() {
        kept.extend_from_slice(b"\r\n");
    }
    assert_eq!(scanner.bytes(), kept.len() as u64);
    (kept, None, scanner.defect())
}

/// Content is the same however it is split; only CRLF.CRLF ends it; accepted content is text.
pub fn content(input: &[u8], seed: u64) {
    for framing in [Framing::Dots, Framing::Chunks, Framing::BinaryChunks] {
        let whole = scan_content(input, framing, &[input.len()]);
        assert_eq!(scan_content(input, framing, &cuts(input.len(), seed)), whole, "{framing:?}");
        let (kept, end, defect) = whole;
        if framing == Framing::Dots {
            let end_of_data = input.windows(5).position(|part| part == b"\r\n.\r\n");
            let plain =
                if input.starts_with(b".\r\n") { Some(3) } else { end_of_data.map(|at| at + 5) };
            assert_eq!(end, plain, "the end of data");
        }
        if defect.is_some() || framing == Framing::BinaryChunks {
            continue;
        }
        if framing == Framing::Chunks || end.is_some() {
            assert!(kept.is_empty() || kept.ends_with(b"\r\n"));
        }
        let (mut text, mut after_cr) = (kept.as_slice(), false);
        while let [byte, rest @ ..] = text {
            assert!(*byte != 0 && (*byte == b'\n') == after_cr, "a lone CR or LF, or NUL");
            after_cr = *byte == b'\r';
            text = rest;
        }
        // The next hop cannot take any part of it for the end.
        let closed = [b"\r\n", &kept[..]].concat();
        assert!(!closed.windows(5).any(|part| part == b"\r\n.\r\n"));
    }
}

/// For any line, the parsed parts are parts of it, and a refusal is a complete reply.
pub fn commands(input: &[u8], seed: u64) {
    for line in input.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let offered = Offered {
            extended: seed & 1 == 0,
            scheduling: seed & 2 == 0,
            require_tls: seed & 4 == 0,
            auth: seed & 8 == 0,
            syntax: match seed & 48 {
                0 => Syntax::Lenient(OddDots::Quoted),
                16 => Syntax::Lenient(OddDots::Kept),
                _ => Syntax::Strict,
            },
        };
        let fault = match smtp::read_command(line) {
            Err(fault) => Some(fault),
            Ok((verb, argument)) => command(verb, argument, offered, seed).err(),
        };
        if let Some(fault) = fault {
            let mut out = Vec::new();
            fault.reply().write(&mut out);
            assert!(out.ends_with(b"\r\n") && out.is_ascii() && (b'4'..=b'5').contains(&out[0]));
        }
    }
}

fn command(
    verb: Verb,
    argument: &str,
    offered: Offered,
    seed: u64,
) -> Result<(), smtp::CommandFault> {
    assert!(!argument.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'));
    match verb {
        Verb::Mail => {
            let mail = smtp::read_mail(argument, offered)?;
            let options = &mail.parameters.options;
            assert!(argument.is_ascii() || options.smtp_utf8);
            assert!((-9..=9).contains(&options.priority));
            let envelope_id = options.dsn_envelope_id.as_ref();
            assert!(envelope_id.is_none_or(|id| id.is_ascii() && id.len() <= 100));
            assert!(offered.extended || mail.parameters == smtp::MailParameters::default());
        }
        Verb::Rcpt => {
            let rcpt = smtp::read_rcpt(
                argument,
                RcptSyntax {
                    extended: offered.extended,
                    smtp_utf8: seed & 8 == 0,
                    syntax: offered.syntax,
                },
            )?;
            assert!(!rcpt.address.as_str().is_empty());
            assert!(rcpt.original.is_none_or(|original| original.len() <= 500));
        }
        Verb::Ehlo | Verb::Helo => assert!(smtp::read_hello(argument)?.is_ascii()),
        Verb::Bdat => _ = smtp::read_chunk(argument),
        Verb::Etrn => assert!(smtp::is_domain(smtp::read_etrn(argument)?.0)),
        Verb::Xclient => _ = smtp::read_xclient(argument)?,
        Verb::Vrfy | Verb::Expn => smtp::read_question(argument)?,
        Verb::Help => assert_eq!(smtp::help(argument, |_| true).code, 214),
        _ => smtp::read_nothing(argument)?,
    }
    Ok(())
}

/// An accepted address can be sent again with the same meaning; its domain has one key.
pub fn addresses(input: &[u8], _: u64) {
    let text = String::from_utf8_lossy(input);
    let Ok((path, rest)) = smtp::read_path(&text) else { return };
    assert!(text.ends_with(rest));
    let Some(address) = path.to_address() else { return };
    let said = format!("<{address}>");
    assert!(said.len() <= 256 + 2 && !said.chars().any(char::is_control), "{said:?}");
    let (again, rest) = smtp::read_path(&said).expect("what was taken is taken again");
    assert_eq!((again.to_address().as_ref(), rest), (Some(&address), ""));
    let key = address.domain_key();
    assert_eq!(domain_key(&key), key, "one key: {said:?}");
    assert!(key.is_ascii(), "{said:?}");
    assert_eq!(Address::new(format!("x@{key}")).domain(), key);
}

/// Replies are the same however they are split, and bounded.
pub fn replies(input: &[u8], seed: u64) {
    let read = |cuts: &[usize]| {
        let mut reader = ResponseReader::default();
        let mut seen = Vec::new();
        let mut from = 0;
        for &to in cuts {
            while from < to {
                match reader.read(&input[from..to]) {
                    Ok(Some(used)) => {
                        assert!(used > 0);
                        from += used;
                        let response = reader.response();
                        let lines: Vec<Vec<u8>> = response.lines().map(<[u8]>::to_vec).collect();
                        // A line takes its separator; the number of lines has no bound of its own.
                        assert!(lines.len() + lines.concat().len() <= (64 << 10) + 1);
                        seen.push(Ok(lines));
                    }
                    Ok(None) => from = to,
                    Err(malformed) => {
                        // The shown part may be shorter if less had arrived.
                        seen.push(Err(std::mem::discriminant(&malformed)));
                        return seen;
                    }
                }
            }
        }
        seen
    };
    let whole = read(&[input.len()]);
    let cut = read(&cuts(input.len(), seed));
    // A fault may be found before the end of its line, or after earlier replies.
    let sound = |seen: &[Result<Vec<Vec<u8>>, _>]| {
        seen.iter().filter_map(|one| one.as_ref().ok().cloned()).collect::<Vec<_>>()
    };
    assert_eq!(sound(&whole), sound(&cut));
}

/// A header is read to its end and no further, whatever follows it.
pub fn proxy(input: &[u8], _: u64) {
    let mut length = 0;
    loop {
        let Some(bytes) = input.get(..length) else { return };
        match proxy::read(bytes) {
            Header::Short(missing) => {
                assert!(missing > 0);
                length += missing;
                assert!(length < 4096);
            }
            Header::Whole(_) | Header::Malformed => return,
        }
    }
}
