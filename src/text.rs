//! Text from outside: files as editors save them (UTF-8 or UTF-16, with a byte order mark or without), and names as they may
//! stand in a line.

use std::borrow::Cow;

/// Returns `true` for characters that a terminal or editor obeys instead of showing them: control characters, ends of lines,
/// and marks that turn the direction of what follows.
pub(crate) fn is_obeyed(letter: char) -> bool {
    let is_mark = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    letter.is_control() || is_mark
}

/// Text as it may stand in a line of a log or on a terminal: what would be obeyed is shown as an escape, such as `\n`.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut plain, letter| {
        if is_obeyed(letter) {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
        plain
    }))
}

/// Text of one line for files that have a meaning for lines and tabs, such as captions: blanks stand in for what is obeyed.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) { Cow::Owned(text.replace(is_obeyed, " ")) } else { Cow::Borrowed(text) }
}

/// Why bytes are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoText {
    /// Every other byte is zero, in most of it.
    #[error("it is UTF-16 without a byte order mark: save it as UTF-8")]
    Utf16,
    /// Neither of the two.
    #[error("it is not UTF-8 text (byte {0} fits no character): save it as UTF-8")]
    Other(usize),
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// In encodings that are not told by their first bytes.
pub(crate) fn decoded(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    match bytes {
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] | text => utf8(text),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    if bytes.iter().take(64).filter(|&&byte| byte == 0).count() > 8 {
        return Err(NoText::Utf16);
    }
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| NoText::Other(error.valid_up_to()))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, NoText> {
    let (units, rest) = bytes.as_chunks();
    let text = char::decode_utf16(units.iter().copied().map(unit)).collect::<Result<String, _>>();
    match text {
        Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
        _ => Err(NoText::Other(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_stays_in_its_line() {
        assert_eq!(plain("a\nb \u{1b}[2J größe"), "a\\nb \\u{1b}[2J größe");
        assert_eq!(
            plain("\u{9b}\u{202e}\u{2067}\u{200f}\u{2028}\r\t"),
            "\\u{9b}\\u{202e}\\u{2067}\\u{200f}\\u{2028}\\r\\t"
        );
        assert!(matches!(plain("größe 猫 \u{1f468}\u{200d}\u{1f469}"), Cow::Borrowed(_)));
        assert_eq!(one_line("a\r\nb\u{202e}c"), "a  b c");
    }

    #[test]
    fn text_is_read_in_every_encoding_that_its_first_bytes_tell() {
        let units = |order: fn(u16) -> [u8; 2]| "é, 猫".encode_utf16().flat_map(order).collect::<Vec<_>>();
        for bytes in [
            "é, 猫".as_bytes().to_vec(),
            "\u{feff}é, 猫".as_bytes().to_vec(),
            [vec![0xff, 0xfe], units(u16::to_le_bytes)].concat(),
            [vec![0xfe, 0xff], units(u16::to_be_bytes)].concat(),
        ] {
            assert_eq!(decoded(&bytes).expect("text"), "é, 猫");
        }
        assert_eq!(decoded(b"caf\xe9"), Err(NoText::Other(3)));
        assert_eq!(decoded(b"\xff\xfea"), Err(NoText::Other(0)));
        let bare = "1girl, solo, long hair".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(decoded(&bare), Err(NoText::Utf16));
    }
}
