//! Makes a NATS server's bytes readable for the client library: a function from bytes to bytes.
//!
//! A server passes on subjects and headers as publishers wrote them. Where the library would panic over them or end the
//! connection, characters of a subject are replaced, and headers give way to [`MALFORMED`], which says what was wrong.

use std::borrow::Cow;
use std::io;

use bytes::{Buf, BytesMut};
use memchr::memmem;

/// Header of a message whose own headers can't be read: the reason.
pub(in crate::nats) const MALFORMED: &str = "Tagmill-Malformed";

/// Bytes of a line, at most; servers allow 4 kB unless they are set up otherwise.
const LONGEST_LINE: usize = 1 << 20;

/// Subjects of acknowledgements of a stream's messages.
const ACKNOWLEDGED: &[u8] = b"$JS.ACK.";

/// The state between two calls.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of a payload that are still to come, with the end of their line.
    payload: usize,
}

/// The line before a message.
struct Control<'a> {
    subject: &'a [u8],
    subscription: &'a [u8],
    reply: Option<&'a [u8]>,
    /// Bytes of headers, of a message with headers.
    headers: Option<usize>,
    /// Bytes of headers and payload.
    total: usize,
}

impl Frames {
    /// Moves what is whole from `input` to `output`.
    ///
    /// # Errors
    /// If a line does not end.
    pub(super) fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> io::Result<()> {
        loop {
            let payload = self.payload.min(input.len());
            output.extend_from_slice(&input[..payload]);
            input.advance(payload);
            self.payload -= payload;
            if self.payload > 0 {
                return Ok(());
            }
            let Some(end) = memmem::find(input, b"\r\n") else {
                let error = || io::Error::new(io::ErrorKind::InvalidData, "a line of the NATS server does not end");
                return if input.len() > LONGEST_LINE { Err(error()) } else { Ok(()) };
            };
            let (line, rest) = (&input[..end], &input[end + 2..]);
            let Some(control) = Control::read(line) else {
                // Errors quote what was sent.
                output.extend_from_slice(String::from_utf8_lossy(line).as_bytes());
                output.extend_from_slice(b"\r\n");
                input.advance(end + 2);
                continue;
            };
            let headers = control.headers.unwrap_or_default();
            if rest.len() < headers {
                return Ok(());
            }
            control.pass(line, &rest[..headers], output);
            self.payload = control.total - headers + 2;
            input.advance(end + 2 + headers);
        }
    }
}

impl<'a> Control<'a> {
    /// Reads `MSG subject subscription [reply] total` or `HMSG subject subscription [reply] headers total`.
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let has_headers = match words.next()? {
            b"MSG" => false,
            b"HMSG" => true,
            _ => return None,
        };
        let (subject, subscription) = (words.next()?, words.next()?);
        let rest: Vec<&[u8]> = words.collect();
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
        let (sizes, reply) = match (rest.len(), has_headers) {
            (1, false) | (2, true) => (&rest[..], None),
            (2, false) | (3, true) => (&rest[1..], Some(rest[0])),
            _ => return None,
        };
        let total = number(sizes.last()?)?;
        let headers = if has_headers { Some(number(sizes[0])?).filter(|headers| *headers <= total) } else { None };
        (headers.is_some() == has_headers).then_some(Self { subject, subscription, reply, headers, total })
    }

    /// Writes the line and the headers: as they are, or so that they can be read.
    fn pass(&self, line: &[u8], headers: &[u8], output: &mut BytesMut) {
        let is_stored = self.reply.is_some_and(|reply| reply.starts_with(ACKNOWLEDGED));
        let malformed = self.headers.and_then(|_| malformed(headers, is_stored));
        let (subject, reply) = (readable(self.subject), self.reply.map(readable));
        let is_sound = matches!(&subject, Cow::Borrowed(_)) && !matches!(&reply, Some(Cow::Owned(_)));
        if is_sound && malformed.is_none() {
            output.extend_from_slice(line);
            output.extend_from_slice(b"\r\n");
            output.extend_from_slice(headers);
            return;
        }
        let instead = malformed.map(|reason| format!("NATS/1.0\r\n{MALFORMED}: {reason}\r\n\r\n"));
        let headers = instead.as_ref().map_or(headers, |instead| instead.as_bytes());
        let total = self.total - self.headers.unwrap_or_default() + headers.len();
        let verb = if self.headers.is_some() { "HMSG" } else { "MSG" };
        let subscription = String::from_utf8_lossy(self.subscription);
        let sizes = self.headers.map(|_| format!(" {}", headers.len())).unwrap_or_default();
        let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
        let line = format!("{verb} {subject} {subscription}{reply}{sizes} {total}\r\n");
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(headers);
    }
}

/// A subject as text without blanks and control characters, which the library would take for the end of a word.
fn readable(subject: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(subject);
    let odd = |letter: char| letter.is_whitespace() || letter.is_control();
    if text.contains(odd) { Cow::Owned(text.replace(odd, "\u{fffd}")) } else { text }
}

/// Reason that headers are unreadable, if they are. Messages that a stream has stored have no status: a
/// publisher that gives them one would have them taken for the server's own words.
fn malformed(headers: &[u8], is_stored: bool) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(headers) else { return Some("they are not UTF-8") };
    // As the library splits them.
    let mut lines = text.lines();
    let Some(status) = lines.next().and_then(|version| version.strip_prefix("NATS/1.0")) else {
        return Some("they do not begin with NATS/1.0");
    };
    let status = status.trim();
    let code = status.split(' ').next().unwrap_or_default();
    let is_code = code.len() == 3 && code.bytes().all(|digit| digit.is_ascii_digit()) && !code.starts_with('0');
    if !status.is_empty() && (is_stored || !is_code || status.contains('\r')) {
        return Some("they have a status line, which only the server's own messages have");
    }
    let mut after_header = false;
    for line in lines {
        if line.contains('\r') {
            return Some("a line has a carriage return in it");
        }
        let is_folded = after_header && line.starts_with(char::is_whitespace);
        after_header = !line.is_empty();
        if line.is_empty() || is_folded {
            continue;
        }
        let Some((name, _)) = line.split_once(':') else { return Some("a line has no colon") };
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some("a name has characters other than ASCII letters, digits and marks");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Output for bytes that arrive in one piece and one by one.
    fn passed(bytes: &[u8]) -> Vec<u8> {
        let pass = |size: usize| {
            let (mut frames, mut input, mut output) = (Frames::default(), BytesMut::new(), BytesMut::new());
            for chunk in bytes.chunks(size) {
                input.extend_from_slice(chunk);
                frames.pass(&mut input, &mut output).expect("lines end");
            }
            output.to_vec()
        };
        let (whole, bytewise) = (pass(bytes.len().max(1)), pass(1));
        assert_eq!(whole, bytewise);
        whole
    }

    fn message(subject: &str, reply: &str, headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let total = headers.len() + payload.len();
        let line = format!("HMSG {subject} 7{reply} {} {total}\r\n", headers.len());
        [line.as_bytes(), headers, payload, b"\r\n"].concat()
    }

    #[test]
    fn sound_messages_pass_as_they_are() {
        let sound = [
            b"PING\r\nPONG\r\n+OK\r\n-ERR 'x'\r\nINFO {}\r\n".to_vec(),
            b"MSG a 1 3\r\n\r\n\r\r\nMSG a.b 2 _INBOX.x 0\r\n\r\nPING\r\n".to_vec(),
            message("a", "", b"NATS/1.0\r\nA: b\r\nB:c: d\r\n folded\r\nEmpty:\r\n\r\n", b"MSG a 1 1\r\n"),
            message("_INBOX.x", "", b"NATS/1.0 404 No Messages\r\n\r\n", b""),
            message("_INBOX.x", "", b"NATS/1.0 503\r\n\r\n", b""),
            message("_INBOX.x", " $JS.FC.x", b"NATS/1.0 100 FlowControl Request\r\n\r\n", b""),
            message("tagmill.jobs.größe", " $JS.ACK.x", b"NATS/1.0\r\nA: \xc3\xa4\r\n\r\n", b"\xff\r"),
        ];
        for bytes in &sound {
            assert_eq!(passed(bytes), *bytes, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(passed(&sound.concat()), sound.concat());
    }

    #[test]
    fn headers_that_can_not_be_read_give_way_to_the_reason() {
        for (headers, reason) in [
            (b"NATS/1.0\r\nA: b\rc\r\n\r\n".as_slice(), "carriage return"),
            (b"NATS/1.0\r\nA: b\r\r\n\r\n", "carriage return"),
            (b"NATS/1.0\r\nno colon\r\n\r\n", "colon"),
            (b"NATS/1.0\r\n : x\r\n\r\n", "name"),
            (b"NATS/1.0\r\nA: b\r\n\r\n folded\r\n\r\n", "colon"),
            (b"NATS/1.0\r\n\xc3\xa4: b\r\n\r\n", "name"),
            (b"NATS/1.0\r\nA: \xff\r\n\r\n", "UTF-8"),
            (b"HTTP/1.1\r\n\r\n", "NATS/1.0"),
            (b"\r\n\r\n", "NATS/1.0"),
            (b"", "NATS/1.0"),
            (b"NATS/1.0 soon\r\n\r\n", "status"),
            (b"NATS/1.0 404\r\n\r\n", "status"),
        ] {
            let out = passed(&[message("a", " $JS.ACK.x", headers, b"payload"), b"PING\r\n".to_vec()].concat());
            let text = String::from_utf8(out).expect("UTF-8");
            let (line, rest) = text.split_once("\r\n").expect("a line");
            let (instead, rest) = rest.split_once("\r\n\r\n").expect("headers");
            assert!(instead.starts_with("NATS/1.0\r\nTagmill-Malformed: ") && instead.contains(reason), "{text}");
            assert_eq!(rest, "payload\r\nPING\r\n");
            let size = instead.len() + 4;
            assert_eq!(line, format!("HMSG a 7 $JS.ACK.x {size} {}", size + 7));
        }
    }

    #[test]
    fn subjects_become_text_of_one_word() {
        let out = passed(b"MSG a.\xff 1 _INBOX.\xe2\x80\x83\x1b 2\r\nhi\r\n");
        assert_eq!(String::from_utf8_lossy(&out), "MSG a.\u{fffd} 1 _INBOX.\u{fffd}\u{fffd} 2\r\nhi\r\n");
        let out = passed(&message("a\u{a0}b", "", b"NATS/1.0\r\n\r\n", b"hi"));
        assert_eq!(String::from_utf8_lossy(&out), "HMSG a\u{fffd}b 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
        assert_eq!(passed(b"-ERR '\xff'\r\n"), "-ERR '\u{fffd}'\r\n".as_bytes());
    }

    #[test]
    fn a_line_without_an_end_is_an_error() {
        let (mut input, mut output) = (BytesMut::from(&vec![b'x'; LONGEST_LINE + 1][..]), BytesMut::new());
        assert!(Frames::default().pass(&mut input, &mut output).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_headers_the_messages_after_them_stay(
            headers in prop::collection::vec(any::<u8>(), 0..60),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let out = passed(&[message("a", "", &headers, &payload), b"MSG b 1 2\r\nhi\r\n".to_vec()].concat());
            let end = [payload.as_slice(), b"\r\nMSG b 1 2\r\nhi\r\n"].concat();
            prop_assert!(out.ends_with(&end));
            let line = out.split(|byte| *byte == b'\r').next().expect("a line");
            let control = Control::read(line).expect("a message");
            let size = control.headers.expect("headers");
            prop_assert_eq!(control.total, size + payload.len());
            let kept = &out[line.len() + 2..line.len() + 2 + size];
            prop_assert_eq!(malformed(kept, false), None);
        }
    }
}
