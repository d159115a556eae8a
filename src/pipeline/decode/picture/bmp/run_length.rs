//! Run-length coding of BMP. Pixels outside all runs have the palette's first colour.

/// Returns the indices of all pixels, rows as stored, or `None` if the data end before the image does.
pub(super) fn decode(data: &[u8], nibbles: bool, width: usize, height: usize) -> Option<Vec<u8>> {
    let mut canvas = Canvas { indices: vec![0; width * height], width, x: 0, y: 0, height };
    let mut data = data;
    loop {
        if canvas.is_full() {
            return Some(canvas.indices);
        }
        let [count, value, rest @ ..] = data else { return None };
        data = rest;
        match (*count, *value) {
            (0, 0) => canvas.next_row(),
            (0, 1) => return Some(canvas.indices),
            (0, 2) => {
                let [right, up, rest @ ..] = data else { return None };
                data = rest;
                canvas.skip(usize::from(*right), usize::from(*up));
            }
            (0, count) => {
                let count = usize::from(count);
                let length = if nibbles { count.div_ceil(2) } else { count };
                let (literal, rest) = data.split_at_checked(length)?;
                canvas.put((0..count).map(
                    |index| {
                        if nibbles { nibble(literal[index / 2], index) } else { literal[index] }
                    },
                ));
                // Padded to two bytes.
                data = rest.get(length % 2..).unwrap_or_default();
            }
            (count, value) => {
                canvas.put((0..usize::from(count)).map(|index| if nibbles { nibble(value, index) } else { value }));
            }
        }
    }
}

const fn nibble(byte: u8, index: usize) -> u8 {
    if index.is_multiple_of(2) { byte >> 4 } else { byte & 0xf }
}

struct Canvas {
    indices: Vec<u8>,
    width: usize,
    height: usize,
    x: usize,
    /// Row, in the order of storage.
    y: usize,
}

impl Canvas {
    fn is_full(&self) -> bool {
        self.y >= self.height || (self.y + 1 == self.height && self.x >= self.width)
    }

    /// Writes values. Those that do not fit the row are dropped.
    fn put(&mut self, values: impl Iterator<Item = u8>) {
        let row = self.y * self.width;
        for value in values {
            if self.x < self.width {
                self.indices[row + self.x] = value;
                self.x += 1;
            }
        }
    }

    const fn next_row(&mut self) {
        self.x = 0;
        self.y += 1;
    }

    fn skip(&mut self, right: usize, up: usize) {
        self.x = (self.x + right).min(self.width);
        self.y += up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_of_the_first_colour() {
        let data = [2, 7, 0, 0, 0, 2, 1, 1, 1, 5, 0, 1];
        assert_eq!(decode(&data, false, 3, 4).expect("all"), [7, 7, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(decode(&[0, 3, 0x12, 0x30, 0, 1], true, 3, 1).expect("all"), [1, 2, 3]);
        assert_eq!(decode(&[9, 4], false, 3, 1).expect("a run beyond the row"), [4, 4, 4]);
    }

    #[test]
    fn what_ends_too_early_is_refused() {
        for data in [&[][..], &[1], &[2, 7, 0, 0], &[0, 2, 1], &[0, 5, 1, 2]] {
            assert_eq!(decode(data, false, 3, 2), None, "{data:?}");
        }
    }
}
