//! JSON from outside, with errors that name the field that is wrong.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads one value and nothing after it.
///
/// # Errors
/// The field, if it is one, and what is wrong with it.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value =
        serde_path_to_error::deserialize(&mut json).map_err(|error| match error.path().to_string().as_str() {
            "." => error.inner().to_string(),
            path => format!("field `{path}`: {}", error.inner()),
        })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// A list of at most `N` items. What comes after them is read over, so that a list from outside takes no more memory than
/// it may, however short its items are.
#[derive(Debug)]
pub(crate) struct AtMost<T, const N: usize> {
    /// The first of them.
    pub items: Vec<T>,
    /// Whether there are more.
    pub more: bool,
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(Items(PhantomData))
    }
}

struct Items<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
    type Value = AtMost<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < N {
            let Some(item) = list.next_element()? else { return Ok(AtMost { items, more: false }) };
            items.push(item);
        }
        let mut more = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(AtMost { items, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_list_only_so_much_is_kept() {
        let list = |json: &[u8]| read::<AtMost<u8, 2>>(json).map(|list| (list.items, list.more));
        assert_eq!(list(b"[]"), Ok((vec![], false)));
        assert_eq!(list(b"[1,2]"), Ok((vec![1, 2], false)));
        assert_eq!(list(b"[1,2,\"three\",[4]]"), Ok((vec![1, 2], true)), "what is read over may be anything");
        assert!(list(b"[1,2,3").is_err() && list(b"{}").is_err() && list(b"[300]").is_err());
    }
}
