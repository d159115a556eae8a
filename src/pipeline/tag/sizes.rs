//! The few sizes of batches: the configured one, its half, its quarter and so on. A device whose memory pool keeps room for
//! every size it has seen is given no others.

/// The sizes, largest first.
pub(crate) fn of(configured: usize) -> Vec<usize> {
    std::iter::successors(Some(configured.max(1)), |size| (*size > 1).then_some(size / 2)).collect()
}

/// The smallest of them that holds so many rows, or all of them where none does: batches are filled up with blanks.
pub(crate) fn filled_up(configured: usize, rows: usize) -> usize {
    of(configured).into_iter().rev().find(|size| *size >= rows).unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_halved_down_to_one() {
        assert_eq!(of(12), [12, 6, 3, 1]);
        assert_eq!([of(1), of(0)], [[1], [1]]);
    }

    #[test]
    fn batches_are_filled_up_to_the_next_size() {
        let filled: Vec<usize> = (1..=14).map(|rows| filled_up(12, rows)).collect();
        assert_eq!(filled, [1, 3, 3, 6, 6, 6, 12, 12, 12, 12, 12, 12, 13, 14]);
    }
}
