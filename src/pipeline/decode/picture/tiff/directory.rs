//! First directory of a TIFF: read without a decoder, and rewritten with other values for the decoder to read.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Bytes of a value by its type's number; 0 if there is no such type.
const SIZES: [usize; 19] = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8];

/// Maximum numbers read of a field, more than the strips of a picture within the limits.
const MOST: usize = 1 << 22;

/// Maximum bytes of a field that is copied, such as JPEG's tables.
const LONGEST: usize = 1 << 16;

const ASCII: u64 = 2;
pub(super) const SHORT: u16 = 3;
pub(super) const LONG: u16 = 4;
const LONG8: u16 = 16;

/// Fields of one picture.
pub(super) struct Directory<'a> {
    big: bool,
    little: bool,
    fields: BTreeMap<u16, Field<'a>>,
}

/// Values, in the file's byte order.
#[derive(Clone)]
struct Field<'a> {
    kind: u16,
    /// Borrowed from the file, not copied, because hundreds of fields could claim all of it.
    bytes: Cow<'a, [u8]>,
}

impl<'a> Directory<'a> {
    /// Reads the first directory of a file. Returns `None` if it is cut or invalid.
    pub(super) fn first(file: &'a [u8]) -> Option<Self> {
        let little = file.starts_with(b"II");
        let version = number(file.get(2..4)?, little);
        let big = version == 43;
        let mut this = Self { big, little, fields: BTreeMap::new() };
        let width = this.width();
        let at = usize::try_from(number(file.get(width..2 * width)?, little)).ok()?;
        let head = if big { 8 } else { 2 };
        let count = number(file.get(at..at.checked_add(head)?)?, little);
        let length = 4 + 2 * width;
        for index in 0..usize::try_from(count).ok()? {
            let start = at.checked_add(head)?.checked_add(index.checked_mul(length)?)?;
            let entry = file.get(start..start.checked_add(length)?)?;
            match this.field(file, entry) {
                Some((tag, field)) => drop(this.fields.entry(tag).or_insert(field)),
                // The field's default would give other pixels.
                None if this.shapes_pixels(entry) => return None,
                None => {}
            }
        }
        Some(this)
    }

    const fn width(&self) -> usize {
        if self.big { 8 } else { 4 }
    }

    /// Returns `true` if pixels depend on a field, as on most up to JPEG's and YCbCr's, but not on resolutions, positions
    /// and texts.
    fn shapes_pixels(&self, entry: &[u8]) -> bool {
        const RATIONAL_PLACES: [u64; 4] = [282, 283, 286, 287];
        let (tag, kind) = (number(&entry[..2], self.little), number(&entry[2..4], self.little));
        (256..=532).contains(&tag) && kind != ASCII && !RATIONAL_PLACES.contains(&tag)
    }

    /// Reads a field, if it is complete.
    fn field(&self, file: &'a [u8], entry: &'a [u8]) -> Option<(u16, Field<'a>)> {
        let width = self.width();
        let short = |at: usize| u16::try_from(number(&entry[at..at + 2], self.little)).unwrap_or(0);
        let (tag, kind) = (short(0), short(2));
        let count = usize::try_from(number(&entry[4..4 + width], self.little)).ok()?;
        let size = SIZES.get(usize::from(kind)).copied().filter(|&size| size > 0)?.checked_mul(count)?;
        let value = &entry[4 + width..];
        let bytes = if size <= width {
            &value[..size]
        } else {
            let at = usize::try_from(number(value, self.little)).ok()?;
            file.get(at..at.checked_add(size)?)?
        };
        Some((tag, Field { kind, bytes: bytes.into() }))
    }

    /// Whole numbers of a field; none if it is missing.
    pub(super) fn numbers(&self, tag: u16) -> Vec<u64> {
        let Some(field) = self.fields.get(&tag) else { return Vec::new() };
        let size = SIZES.get(usize::from(field.kind)).copied().unwrap_or(1).max(1);
        field.bytes.chunks_exact(size).take(MOST).map(|value| number(value, self.little)).collect()
    }

    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        self.numbers(tag).first().copied()
    }

    /// Bytes of a field.
    pub(super) fn bytes(&self, tag: u16) -> Option<&[u8]> {
        self.fields.get(&tag).map(|field| &*field.bytes)
    }

    /// Sets a field of numbers.
    pub(super) fn set(&mut self, tag: u16, kind: u16, values: &[u64]) {
        let kind = if kind == LONG && self.big { LONG8 } else { kind };
        let size = SIZES[usize::from(kind)];
        let bytes = values.iter().flat_map(|&value| ordered(value, size, self.little)).collect::<Vec<_>>().into();
        self.fields.insert(tag, Field { kind, bytes });
    }

    /// Returns a directory of these fields alone, without those that are too long to copy.
    pub(super) fn only(&self, tags: &[u16]) -> Self {
        let short = |field: &&Field<'_>| field.bytes.len() <= LONGEST;
        let fields = tags.iter().filter_map(|tag| Some((*tag, self.fields.get(tag).filter(short)?.clone())));
        Self { fields: fields.collect(), ..*self }
    }

    /// Appends this directory to a file, as its first and only one.
    pub(super) fn append_to(&self, file: &mut Vec<u8>) {
        let (little, width) = (self.little, self.width());
        let write = |value: usize, size| ordered(value as u64, size, little);
        file.resize(file.len().next_multiple_of(8), 0);
        let mut outside = BTreeMap::new();
        for (tag, field) in self.fields.iter().filter(|(_, field)| field.bytes.len() > width) {
            outside.insert(*tag, file.len());
            file.extend(&*field.bytes);
            file.resize(file.len().next_multiple_of(8), 0);
        }
        let start = file.len();
        file.extend(write(self.fields.len(), if self.big { 8 } else { 2 }));
        for (tag, field) in &self.fields {
            file.extend(write(usize::from(*tag), 2));
            file.extend(write(usize::from(field.kind), 2));
            file.extend(write(field.bytes.len() / SIZES[usize::from(field.kind)], width));
            if let Some(&at) = outside.get(tag) {
                file.extend(write(at, width));
            } else {
                let mut value = field.bytes.to_vec();
                value.resize(width, 0);
                file.extend(value);
            }
        }
        file.extend(write(0, width));
        let first = write(start, width).collect::<Vec<_>>();
        file[width..2 * width].copy_from_slice(&first);
    }
}

fn number(bytes: &[u8], little: bool) -> u64 {
    let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) }
}

fn ordered(value: u64, size: usize, little: bool) -> impl Iterator<Item = u8> {
    let bytes = value.to_le_bytes();
    (0..size).map(move |index| bytes[if little { index } else { size - 1 - index }])
}
