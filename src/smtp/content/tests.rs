//! The content scanner compared with RFC 5321, smuggling attacks, and a simple implementation.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use super::*;

const LIMITS: ContentLimits = ContentLimits { bytes_max: 1000, line_max: 40, received_max: 2 };

/// The result for some input: the content, its properties, and how much was left after the dot
/// line; `None` when the end was not found.
#[derive(Debug, PartialEq)]
struct Seen {
    content: Vec<u8>,
    defect: Option<Defect>,
    dot_stuffed: bool,
    eight_bit: bool,
    rest: Option<usize>,
}

/// Feeds the input in pieces that end at `cuts`, each preceded by what was not used before.
fn feed(input: &[u8], cuts: impl Iterator<Item = usize>) -> Seen {
    let mut scanner = ContentScanner::new(LIMITS, Framing::Dots);
    let mut content = Vec::new();
    let mut used = 0;
    let mut rest = None;
    'feeding: for cut in cuts.chain([input.len()]) {
        loop {
            let piece = &input[used..cut.max(used)];
            match scanner.scan(piece) {
                Scanned::Content(length) => {
                    content.extend_from_slice(&piece[..length]);
                    used += length;
                }
                Scanned::End => {
                    rest = Some(input.len() - used - END_LENGTH);
                    break 'feeding;
                }
                Scanned::Stuffing => panic!("DATA is stuffed already"),
                Scanned::Short => {
                    assert!(piece.len() <= 2, "holds back {}", piece.escape_ascii());
                    break;
                }
            }
        }
    }
    assert_eq!(scanner.bytes(), content.len() as u64);
    Seen {
        content,
        defect: scanner.defect(),
        dot_stuffed: scanner.flags().dot_stuffed,
        eight_bit: scanner.flags().eight_bit,
        rest,
    }
}

/// Scans it whole, byte by byte, and split in two at every position: the result must be the same.
fn scanned(input: &[u8]) -> Seen {
    let whole = feed(input, std::iter::empty());
    assert_eq!(feed(input, 1..input.len()), whole, "byte by byte: {}", input.escape_ascii());
    for cut in 0..input.len() {
        assert_eq!(feed(input, [cut].into_iter()), whole, "cut at {cut}: {}", input.escape_ascii());
    }
    whole
}

#[test]
fn content_goes_up_to_the_dot_line() {
    let seen = scanned(b"Subject: x\r\n\r\ntext\r\n.\r\nQUIT\r\n");
    assert_eq!(seen.content, b"Subject: x\r\n\r\ntext\r\n");
    assert_eq!(seen.rest, Some(6));
    assert_eq!((seen.defect, seen.dot_stuffed, seen.eight_bit), (None, false, false));
}

#[test]
fn content_may_be_empty() {
    let seen = scanned(b".\r\n");
    assert_eq!((seen.content.len(), seen.rest, seen.defect), (0, Some(0), None));
}

#[test]
fn leading_dots_are_kept_and_reported() {
    let seen = scanned(b"..\r\n...x\r\n.y\r\n.\r\n");
    assert_eq!(seen.content, b"..\r\n...x\r\n.y\r\n");
    assert!(seen.dot_stuffed);
    assert!(!scanned(b"a.\r\n a\r\n.\r\n").dot_stuffed);
}

#[test]
fn nothing_but_crlf_dot_crlf_is_the_end() {
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r.\r",
        "\r\n.\r\r\n",
        "\r\r\n.\n",
        "\r\n\0.\r\n",
        "\r\n. \r\n",
        "\r\n..\r\n",
        "\n\r.\r\n",
        "\r\n.\n\r\n",
    ] {
        let input = format!("a: b\r\n\r\ntext{end}MAIL FROM:<x@y>\r\n.\r\n");
        let seen = scanned(input.as_bytes());
        assert_eq!(seen.rest, Some(0), "{end:?}");
        assert_eq!(seen.content.len(), input.len() - 3, "{end:?}");
    }
}

#[test]
fn bare_cr_and_lf_and_nul_are_defects() {
    for (input, defect) in [
        ("a\nb\r\n.\r\n", Defect::BareLf),
        ("\n\r\n.\r\n", Defect::BareLf),
        ("a\r\n\n.\r\n\r\n.\r\n", Defect::BareLf),
        ("a\rb\r\n.\r\n", Defect::BareCr),
        ("a\r\r\n.\r\n", Defect::BareCr),
        ("\r.\r\n\r\n.\r\n", Defect::BareCr),
        ("a\r\n.\r\r\n.\r\n", Defect::BareCr),
        ("a\0b\r\n.\r\n", Defect::Nul),
        ("a\rb\nc\0\r\n.\r\n", Defect::BareLf),
    ] {
        let seen = scanned(input.as_bytes());
        assert_eq!((seen.defect, seen.rest), (Some(defect), Some(0)), "{input:?}");
    }
}

#[test]
fn bytes_above_127_are_reported() {
    assert!(scanned("Subject: ü\r\n.\r\n".as_bytes()).eight_bit);
}

#[test]
fn the_line_limit_does_not_count_a_stuffed_dot() {
    let line = |length: usize| format!("{}\r\n.\r\n", "x".repeat(length - 2));
    assert_eq!(scanned(line(40).as_bytes()).defect, None);
    assert_eq!(scanned(line(41).as_bytes()).defect, Some(Defect::LineTooLong));
    assert_eq!(scanned(format!(".{}", line(40)).as_bytes()).defect, None);
    assert_eq!(scanned(format!(".{}", line(41)).as_bytes()).defect, Some(Defect::LineTooLong));
}

#[test]
fn the_size_limit_does_not_count_stuffed_dots() {
    let lines = |text: &str| format!("{text}.\r\n");
    let full = "0123456789\r\n".repeat(83) + "01\r\n";
    assert_eq!(full.len(), 1000);
    assert_eq!(feed(lines(&full).as_bytes(), 0..0).defect, None);
    let over = "0123456789\r\n".repeat(83) + "012\r\n";
    assert_eq!(feed(lines(&over).as_bytes(), 0..0).defect, Some(Defect::TooLarge));
    assert_eq!(feed(lines(&over).as_bytes(), 0..over.len()).defect, Some(Defect::TooLarge));
    let dotty = ".".to_owned() + &full;
    assert_eq!(feed(lines(&dotty).as_bytes(), 0..0).defect, None);
}

#[test]
fn received_fields_are_counted_only_in_the_header() {
    let defect =
        |header: &str, body: &str| scanned(format!("{header}\r\n{body}.\r\n").as_bytes()).defect;
    let two = "Received: a\r\nrEcEiVeD : b\r\n";
    assert_eq!(defect(two, ""), None);
    assert_eq!(defect(&format!("{two}RECEIVED:c\r\n"), ""), Some(Defect::TooManyHops));
    assert_eq!(defect(&format!("{two}Receive: c\r\n Received: d\r\n"), ""), None);
    assert_eq!(defect(&format!("{two}Received-SPF: c\r\nReceivedx: d\r\nR\r\n"), ""), None);
    assert_eq!(defect(two, "Received: c\r\nReceived: d\r\n"), None);
}

#[test]
fn rfc5321_4_5_2_a_dot_hides_no_hop() {
    let header = "Received: a\r\n.Received: b\r\n.rEcEiVeD : c\r\n\r\n.\r\n";
    for cut in 0..header.len() {
        let defect = feed(header.as_bytes(), cut..cut + 1).defect;
        assert_eq!(defect, Some(Defect::TooManyHops), "cut at {cut}");
    }
    let defect = |text: &str| scanned(text.as_bytes()).defect;
    assert_eq!(defect("Received: a\r\n.Received: b\r\n..Received: c\r\n\r\n.\r\n"), None);
    assert_eq!(defect("Received: a\r\nReceived: b\r\n\r\n.Received: c\r\n.\r\n"), None);
    let chunked = |text: &[u8]| in_chunks(text, Framing::Chunks, 0..text.len()).1;
    assert_eq!(chunked(b"Received: a\r\n.Received: b\r\n.Received: c\r\n\r\n"), None);
}

/// Feeds a message in chunks that end at `cuts`, as BDAT does: the stored form, and the defect.
fn in_chunks(
    message: &[u8],
    framing: Framing,
    cuts: impl Iterator<Item = usize>,
) -> (Vec<u8>, Option<Defect>) {
    let mut scanner = ContentScanner::new(LIMITS, framing);
    let mut kept = Vec::new();
    let mut used = 0;
    for cut in cuts.chain([message.len()]) {
        while used < cut {
            match scanner.scan(&message[used..cut]) {
                Scanned::Content(length) => {
                    kept.extend_from_slice(&message[used..used + length]);
                    used += length;
                }
                Scanned::Stuffing => kept.push(message[used]),
                Scanned::End | Scanned::Short => panic!("a chunk is taken whole"),
            }
        }
    }
    if scanner.lacks_line_end() {
        kept.extend_from_slice(b"\r\n");
        assert!(!scanner.lacks_line_end());
    }
    assert_eq!(scanner.bytes(), kept.len() as u64);
    (kept, scanner.defect())
}

#[test]
fn rfc3030_2_the_stored_form_of_chunks_is_that_of_data() {
    let pieces: [&[u8]; 9] =
        [b"\r\n", b"\r\n", b".", b"\r\n.", b"x", b"Received:", b"re", b"\xff", b"\0"];
    let mut random = fastrand::Rng::with_seed(3030);
    for _ in 0..20_000 {
        let mut message = Vec::new();
        for _ in 0..random.usize(..14) {
            message.extend_from_slice(pieces[random.usize(..pieces.len())]);
        }
        let mut stuffed: Vec<u8> = Vec::new();
        for &byte in &message {
            if byte == b'.' && (stuffed.is_empty() || stuffed.ends_with(b"\r\n")) {
                stuffed.push(b'.');
            }
            stuffed.push(byte);
        }
        if !stuffed.is_empty() && !stuffed.ends_with(b"\r\n") {
            stuffed.extend_from_slice(b"\r\n");
        }
        let data = feed(&[&stuffed[..], b".\r\n"].concat(), 0..0);
        let mut cuts: Vec<usize> =
            (0..random.usize(..6)).map(|_| random.usize(..=message.len())).collect();
        cuts.sort_unstable();
        let (kept, defect) = in_chunks(&message, Framing::Chunks, cuts.into_iter());
        assert_eq!(defect, data.defect, "{}", message.escape_ascii());
        if defect.is_none() {
            assert_eq!(kept, stuffed, "{}", message.escape_ascii());
        }
    }
}

#[test]
fn rfc3030_3_a_binary_body_has_no_lines() {
    let message = b"a: b\r\n\r\n\0\n.\r\r\n.x\r";
    let long = [&message[..], &[b'x'; 100]].concat();
    let all = |text: &[u8]| in_chunks(text, Framing::BinaryChunks, 0..text.len());
    assert_eq!(all(message), (b"a: b\r\n\r\n\0\n.\r\r\n..x\r".to_vec(), None));
    assert_eq!(all(&long).1, None);
    assert_eq!(all(b"a: \0\r\n\r\n").1, Some(Defect::Nul));
    assert_eq!(all(b"a: b\nc: d\r\n\r\n").1, Some(Defect::BareLf));
    assert_eq!(all(b"a: b\r").1, Some(Defect::BareCr));
    assert_eq!(in_chunks(message, Framing::Chunks, 0..0).1, Some(Defect::BareLf));
}

/// A simple implementation of RFC 5321, line by line and slow: splits at CRLF only.
fn plain_reading(input: &[u8]) -> (Vec<u8>, Option<usize>, bool) {
    let mut content = Vec::new();
    let mut stuffed = false;
    let mut rest = input;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let line = &rest[..at];
        rest = &rest[at + 2..];
        if line == b"." {
            return (content, Some(rest.len()), stuffed);
        }
        stuffed |= line.starts_with(b".");
        content.extend_from_slice(line);
        content.extend_from_slice(b"\r\n");
    }
    (content, None, stuffed)
}

#[test]
fn random_input_in_random_pieces_gives_the_result_of_the_simple_implementation() {
    let pieces: [&[u8]; 12] = [
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b".",
        b"\r\n.",
        b"x",
        b"Received:",
        b"re",
        b"\0",
        b"\xff",
    ];
    let mut random = fastrand::Rng::with_seed(5321);
    for _ in 0..20_000 {
        let mut input = Vec::new();
        for _ in 0..random.usize(..14) {
            input.extend_from_slice(pieces[random.usize(..pieces.len())]);
        }
        input.extend_from_slice(b"\r\n.\r\nQUIT\r\n");
        let mut cuts: Vec<usize> =
            (0..random.usize(..6)).map(|_| random.usize(..input.len())).collect();
        cuts.sort_unstable();

        let seen = feed(&input, cuts.into_iter());
        let (content, rest, stuffed) = plain_reading(&input);
        let text = input.escape_ascii();
        assert_eq!((&seen.content, seen.rest), (&content, rest), "{text}");
        assert_eq!(seen.dot_stuffed, stuffed, "{text}");
        assert_eq!(seen.eight_bit, !content.is_ascii(), "{text}");
        let lines = String::from_utf8_lossy(&content).replace("\r\n", "");
        let broken = lines.contains(['\r', '\n', '\0']);
        if broken {
            assert!(seen.defect.is_some(), "{text}");
        }
        assert_eq!(seen.defect, feed(&input, std::iter::empty()).defect, "{text}");
    }
}
