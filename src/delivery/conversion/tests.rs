//! What goes in and what comes out, however it is cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

fn converted_in(content: &[u8], step: usize) -> Result<Vec<u8>, Unconvertible> {
    let mut nothing = Vec::new();
    let mut survey = Conversion::survey(true);
    for piece in content.chunks(step) {
        survey.piece(piece, &mut nothing)?;
    }
    survey.finish(&mut nothing)?;
    assert!(nothing.is_empty());
    let (mut out, mut writer) = (Vec::new(), survey.written());
    for piece in content.chunks(step) {
        writer.piece(piece, &mut out)?;
    }
    writer.finish(&mut out)?;
    Ok(out)
}

/// With `\n` for CRLF on both sides.
fn converted(content: &str) -> Result<String, &'static str> {
    let content = content.replace('\n', "\r\n");
    let all = converted_in(content.as_bytes(), usize::MAX);
    for step in [1, 7] {
        assert!(converted_in(content.as_bytes(), step) == all, "cut by {step}");
    }
    let text = String::from_utf8(all.map_err(|error| error.0)?).expect("UTF-8");
    assert!(text.split("\r\n").all(|line| !line.starts_with('.') || line.starts_with("..")));
    Ok(text.replace("\r\n", "\n"))
}

fn becomes(content: &str, expected: &str) {
    assert_eq!(converted(content).as_deref(), Ok(expected));
}

fn cannot(content: &str, why: &str) {
    let got = converted(content);
    assert!(got.as_ref().is_err_and(|got| got.contains(why)), "{got:?}");
}

#[test]
fn rfc6152_3_text_becomes_quoted_printable() {
    becomes(
        "Subject: x\nContent-Type: text/plain; charset=utf-8\nMIME-Version: 1.0\n\
         Content-Transfer-Encoding: 8bit\n\ngr\u{fc}n\n..dot\n= \n",
        "Subject: x\nContent-Type: text/plain; charset=utf-8\nMIME-Version: 1.0\n\
         Content-Transfer-Encoding: quoted-printable\n\ngr=C3=BCn\n=2Edot\n=3D=20\n",
    );
}

#[test]
fn rfc1428_3_text_of_no_declared_kind_is_of_an_unknown_charset() {
    becomes(
        "Subject: x\n\n\u{fc}\n",
        "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n",
    );
}

#[test]
fn rfc2045_6_4_only_what_has_eight_bits_is_encoded_and_labels_are_right() {
    becomes(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\
         Content-Transfer-Encoding: 8bit\n\npreamble\n--b\n\
         Content-Transfer-Encoding: 8bit\n\nplain\n..\n--b\n\
         Content-Type: application/x\nContent-Transfer-Encoding: binary\n\n..\u{fc}\nx\n--b\n\
         Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n\
         MIME-Version: 1.0\n\n\u{fc}\n--b--\nepilogue\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\
         Content-Transfer-Encoding: 7bit\n\npreamble\n--b\n\
         Content-Transfer-Encoding: 7bit\n\nplain\n..\n--b\n\
         Content-Type: application/x\nContent-Transfer-Encoding: base64\n\nLsO8DQp4\n--b\n\
         Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\n\
         MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n\
         --b--\nepilogue\n",
    );
}

#[test]
fn parts_inside_of_parts_end_where_the_outer_one_goes_on() {
    let body = "Content-Type: multipart/mixed; boundary=out\n\n--out\n\
                Content-Type: multipart/alternative; boundary=outer\n\n--outer\n\n\u{fc}\n--out\n\n\
                --outer\n\u{fc}\n--out--\n";
    let text = converted(body).unwrap();
    assert_eq!(text.matches("quoted-printable").count(), 2, "{text}");
    assert!(text.contains("\n--outer\n=C3=BC\n--out--\n"), "no boundary any more: {text}");
}

#[test]
fn base64_has_lines_of_76() {
    let body = format!("Content-Type: image/x\nMIME-Version: 1.0\n\n{}\n", "\u{fc}".repeat(300));
    let text = converted(&body).unwrap();
    let (_, coded) = text.split_once("base64\n\n").unwrap();
    let lines: Vec<&str> = coded.lines().collect();
    assert!(lines[..lines.len() - 1].iter().all(|line| line.len() == 76), "{coded}");
    let plain = STANDARD.decode(lines.concat()).unwrap();
    assert_eq!(String::from_utf8(plain).unwrap(), "\u{fc}".repeat(300) + "\r\n");
}

#[test]
fn signed_and_encrypted_parts_are_left_alone_and_keep_all_from_going() {
    let signed = |inside: &str| {
        format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n--a\n\
             Content-Type: multipart/signed; boundary=s\n\n--s\n\
             Content-Transfer-Encoding: 8bit\n\n{inside}\n--s--\n--a\n\n\u{fc}\n--a--\n"
        )
    };
    let text = converted(&signed("plain")).unwrap();
    assert!(text.contains("--s\nContent-Transfer-Encoding: 8bit\n\nplain\n--s--\n"), "{text}");
    assert!(text.contains("quoted-printable\n\n=C3=BC\n--a--\n"), "{text}");
    cannot(&signed("\u{fc}"), "a signed part");
    cannot("Content-Type: multipart/encrypted; boundary=s\n\n\u{fc}\n", "encrypted");
}

#[test]
fn what_cannot_be_said_in_seven_bits_is_refused() {
    cannot("Subject: \u{fc}\n\nx\n", "a header field");
    cannot("Content-Type: multipart/mixed; boundary=a\n\n\u{fc}\n--a--\n", "outside of its parts");
    cannot("Content-Type: multipart/mixed\n\n\u{fc}\n", "without a boundary");
    cannot("Content-Transfer-Encoding: base64\n\n\u{fc}\n", "encoded already");
    cannot("Content-Type: message/partial\n\n\u{fc}\n", "must not be encoded");
    cannot(&format!("\n{}\n", "x".repeat(LINE_MAX + 1)), "too long");
    cannot(&format!("A: {}\n", "x\n ".repeat(HEADER_MAX / 4)), "too long");
    let nested: String =
        (0..100).map(|n| format!("Content-Type: multipart/x; boundary=b{n}\n\n--b{n}\n")).collect();
    cannot(&nested, "too many parts");
}

#[test]
fn what_needs_nothing_stays_as_it_is() {
    for content in
        ["", "\n", "A: b\n", "A: b\n\n..\nx", "Content-Type: multipart/x; boundary=a\n\n--a"]
    {
        becomes(content, content);
    }
}

fn report_converted(content: &str) -> String {
    let content = content.replace('\n', "\r\n");
    assert!(converted_in(content.as_bytes(), 100).is_err(), "it is needed");
    let (mut nothing, mut out) = (Vec::new(), Vec::new());
    let mut survey = Conversion::survey_report(true);
    survey.piece(content.as_bytes(), &mut nothing).unwrap();
    survey.finish(&mut nothing).unwrap();
    assert!(nothing.is_empty());
    let mut writer = survey.written();
    for piece in content.as_bytes().chunks(7) {
        writer.piece(piece, &mut out).unwrap();
    }
    writer.finish(&mut out).unwrap();
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

#[test]
fn rfc6522_4_a_report_gives_back_the_header_of_what_cannot_be_encoded() {
    for (kind, becomes) in
        [("message/rfc822", "text/rfc822-headers"), ("message/global", "message/global-headers")]
    {
        let content = format!(
            "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/report; boundary=\"=_1\"\n\
             Content-Transfer-Encoding: 8bit\n\n\n--=_1\nContent-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: 8bit\n\ngr\u{fc}n\n\n--=_1\nContent-Type: {kind}\n\
             Content-Transfer-Encoding: 8bit\n\nSubject: gr\u{fc}n\n..dot: x\n\nb\u{fc}dy\n\
             --inner\nmore\n\n--=_1--\n"
        );
        let expected = format!(
            "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/report; boundary=\"=_1\"\n\
             Content-Transfer-Encoding: 7bit\n\n\n--=_1\nContent-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: quoted-printable\n\ngr=C3=BCn\n\n--=_1\n\
             Content-Type: {becomes}\nContent-Transfer-Encoding: quoted-printable\n\n\
             Subject:=20gr=C3=BCn\n=2Edot: x\n--=_1--\n"
        );
        let got = match converted(&content) {
            // message/global may be encoded as it is.
            Ok(_) => continue,
            Err(_) => report_converted(&content),
        };
        assert_eq!(got.replace("Subject: gr=C3", "Subject:=20gr=C3"), expected, "{kind}");
    }
}
