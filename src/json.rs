//! JSON input, with errors that name the wrong field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Byte order mark, which some editors and languages write before text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Parses exactly one value, with or without a byte order mark before it.
///
/// # Errors
/// The wrong field, if any, and the cause.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| described(&error.path().to_string(), &error.inner().to_string()))?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Formats an error with the name of its field; for an unknown field, with the nearest known name.
fn described(path: &str, error: &str) -> String {
    if let Some(listed) = error.strip_prefix("unknown field `") {
        // serde's error on a `deny_unknown_fields` type lists the known names after the wrong one.
        let known: Vec<_> = listed.rsplit_once("`, expected ").map_or("", |(_, known)| known).split('`').collect();
        let known: Vec<_> = known.into_iter().skip(1).step_by(2).collect();
        return unknown_field(path, &known);
    }
    match path {
        "." => error.to_owned(),
        path => format!("field `{path}`: {error}"),
    }
}

/// Error for a field, named by its path, that is none of the `known` ones.
#[must_use]
pub(crate) fn unknown_field(path: &str, known: &[&str]) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    let nearest = nearest(name, known).map(|nearest| format!("did you mean `{nearest}`? ")).unwrap_or_default();
    let shown: String = path.chars().take(LONGEST_NAME).collect();
    let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("field `{shown}` is unknown; {nearest}known are {known}")
}

/// Name in `known` most similar to `name`, if any is similar.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Known names are short, but an input name may have any length.
    let name: String = name.chars().take(LONGEST_NAME).collect();
    let likeness = |other: &str| strsim::jaro_winkler(&name, other);
    let nearest = known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(nearest) > LIKE).then_some(nearest)
}

/// Maximum characters shown of an input name.
const LONGEST_NAME: usize = 64;

/// Minimum similarity of two names, from 0 to 1, for a suggestion.
const LIKE: f64 = 0.75;

/// List of at most `N` items. Further items are skipped, which bounds the memory of a list from outside, however short its
/// items are.
#[derive(Debug)]
pub(crate) struct AtMost<T, const N: usize> {
    /// First items of the list.
    pub items: Vec<T>,
    /// `true` if there were more items.
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

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its names count")]
    struct Fields {
        image: Option<String>,
        thresholds: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its names count")]
    struct Inner {
        general: Option<f32>,
    }

    #[test]
    fn an_unknown_field_is_named_with_the_nearest_known_one() {
        let refused = |json: &str| read::<Fields>(json.as_bytes()).expect_err(json);
        let known = "known are `image`, `thresholds`";
        assert_eq!(
            refused(r#"{"threshold":1}"#),
            format!("field `threshold` is unknown; did you mean `thresholds`? {known}")
        );
        assert_eq!(refused(r#"{"xyz":1}"#), format!("field `xyz` is unknown; {known}"));
        assert_eq!(
            refused(r#"{"thresholds":{"genral":1}}"#),
            "field `thresholds.genral` is unknown; did you mean `general`? known are `general`"
        );
        let odd = refused(r#"{"a`, expected `b":1}"#);
        assert!(odd.ends_with(known), "{odd}");
        let long = refused(&format!(r#"{{"{}":1}}"#, "x".repeat(100_000)));
        assert!(long.len() < 200, "{}", long.len());
        assert_eq!(unknown_field("a", &[]), "field `a` is unknown; known are ");
    }

    #[test]
    fn of_a_long_list_only_so_much_is_kept() {
        let list = |json: &[u8]| read::<AtMost<u8, 2>>(json).map(|list| (list.items, list.more));
        assert_eq!(list(b"[]"), Ok((vec![], false)));
        assert_eq!(list(b"[1,2]"), Ok((vec![1, 2], false)));
        assert_eq!(list(b"[1,2,\"three\",[4]]"), Ok((vec![1, 2], true)), "what is read over may be anything");
        assert!(list(b"[1,2,3").is_err() && list(b"{}").is_err() && list(b"[300]").is_err());
    }
}
