//! Messages between a worker and an isolated decoder, over pipes. Numbers are little-endian.
//!
//! | from | message | content |
//! |---|---|---|
//! | decoder | [`Head::Hello`] | once, after it has limited itself |
//! | worker | [`Request`] | settings, frame and length of an image, then the image |
//! | decoder | [`Head::Needs`] | bytes that decoding takes, known from the header |
//! | worker | [`GO`] or [`NO`] | these bytes are reserved, or not |
//! | decoder | [`Head::Row`] or [`Head::Refused`] | the row, or the refusal |

use super::super::picture::Settings;
use crate::failure::{Class, Code, Failure};
use crate::model::frame::{Filter, Fit, Frame};

/// The memory is reserved.
pub(super) const GO: u8 = 1;
/// The memory is not reserved, so the image must be refused.
pub(super) const NO: u8 = 0;

/// Maximum bytes of a refusal.
pub(super) const MAX_REFUSAL: u64 = 4096;

const FILTERS: [Filter; 3] = [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos];

/// Codes of refusals.
const CODES: [Code; 2] = [Code::ImageUndecodable, Code::ImageTooLarge];

/// Image to decode.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) settings: Settings,
    pub(super) frame: Frame,
    /// Number of bytes of the image, which follow.
    pub(super) length: u64,
}

impl Request {
    /// Number of bytes of a request without the image.
    pub(super) const BYTES: usize = 26;

    pub(super) fn to_bytes(&self) -> [u8; Self::BYTES] {
        let Self { settings, frame, length } = self;
        let (fit, colour) = match frame.fit {
            Fit::Pad(colour) => (0, colour),
            Fit::Stretch => (1, [0; 3]),
        };
        let filter = FILTERS.iter().position(|filter| *filter == frame.filter).unwrap_or_default();
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&settings.max_pixels.to_le_bytes());
        bytes[8..16].copy_from_slice(&length.to_le_bytes());
        bytes[16..20].copy_from_slice(&frame.side.to_le_bytes());
        bytes[20..23].copy_from_slice(&colour);
        bytes[23] = fit;
        bytes[24] = u8::try_from(filter).unwrap_or_default();
        bytes[25] = u8::from(settings.ignore_orientation);
        bytes
    }

    pub(super) fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let colour = [bytes[20], bytes[21], bytes[22]];
        let fit = if bytes[23] == 0 { Fit::Pad(colour) } else { Fit::Stretch };
        let side = u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?);
        let frame = Frame { side, fit, filter: *FILTERS.get(usize::from(bytes[24]))? };
        let settings = Settings { max_pixels: number(0)?, ignore_orientation: bytes[25] != 0 };
        Some(Self { settings, frame, length: number(8)? })
    }
}

/// Head of a message of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The decoder accepts requests.
    Hello,
    /// The decoder waits for so many bytes to be reserved.
    Needs(u64),
    /// A row of so many bytes follows.
    Row(u64),
    /// A refusal of so many bytes follows.
    Refused(u64),
}

impl Head {
    /// Number of bytes of a head.
    pub(super) const BYTES: usize = 9;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let (kind, number) = match self {
            Self::Hello => (0, 0),
            Self::Needs(bytes) => (1, bytes),
            Self::Row(bytes) => (2, bytes),
            Self::Refused(bytes) => (3, bytes),
        };
        let mut bytes = [kind; Self::BYTES];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, number @ ..] = bytes;
        let number = u64::from_le_bytes(number);
        match kind {
            0 => Some(Self::Hello),
            1 => Some(Self::Needs(number)),
            2 => Some(Self::Row(number)),
            3 if number <= MAX_REFUSAL => Some(Self::Refused(number)),
            _ => None,
        }
    }
}

/// A refusal on the wire: code, class, message.
pub(super) fn refusal(failure: &Failure) -> Vec<u8> {
    let code = CODES.iter().position(|code| *code == failure.code).unwrap_or_default();
    let head = [u8::try_from(code).unwrap_or_default(), u8::from(failure.class() == Class::Retry)];
    [&head, failure.message.as_bytes()].concat()
}

/// A refusal from the wire.
pub(super) fn parse_refusal(bytes: &[u8]) -> Option<Failure> {
    let [code, is_retriable, message @ ..] = bytes else { return None };
    let code = *CODES.get(usize::from(*code))?;
    let failure = Failure::new(code, String::from_utf8_lossy(message));
    Some(if *is_retriable == 0 { failure } else { failure.retriable() })
}
