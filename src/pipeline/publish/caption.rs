//! How tags are written as one line of text, and which are left out.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::category::CHARACTER;
use crate::model::labels::Labels;
use crate::tags::Tag;

/// Names that are faces, not words: their underscores stay.
const EMOTICONS: [&str; 19] = [
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^",
    "o_o", "u_u", "x_x", "|_|", "||_||",
];

/// What the operator wants of tags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Tags never reported, by their [`spaced`] names.
    pub exclude: HashSet<String>,
    /// What captions say instead of a tag, by its spaced name.
    pub replace: HashMap<String, String>,
    /// Whether captions have a backslash before parentheses, as prompts need it.
    pub escape_parentheses: bool,
    /// Whether underscores stay underscores.
    pub underscores: bool,
    /// Whether characters come before everything else.
    pub characters_first: bool,
    /// What every caption begins with.
    pub prepend: Vec<String>,
}

/// A tag's name as captions have it, and as people write it: with spaces for underscores.
#[must_use]
pub(crate) fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

impl Settings {
    /// Leaves out what is excluded.
    pub(crate) fn filter(&self, tags: &mut Vec<Tag>) {
        if !self.exclude.is_empty() {
            tags.retain(|tag| !self.exclude.contains(&spaced(&tag.name)));
        }
    }

    /// Warns of names that no label of the model has, and that therefore change nothing.
    pub(crate) fn check(&self, model: &str, labels: &Labels) {
        let mut unknown: BTreeSet<_> = self.exclude.iter().chain(self.replace.keys()).cloned().collect();
        if !unknown.is_empty() {
            labels.names().for_each(|name| _ = unknown.remove(&spaced(name)));
        }
        if !unknown.is_empty() {
            tracing::warn!(model, ?unknown, "the model has no such tags (--exclude-tag, --replace-tag)");
        }
    }

    /// The tags' names in their order, joined with `, `: underscores as spaces, except in faces.
    #[must_use]
    pub(crate) fn caption(&self, tags: &[Tag]) -> String {
        let is_first = |tag: &&Tag| self.characters_first && tag.category == CHARACTER;
        let ordered = tags.iter().filter(is_first).chain(tags.iter().filter(|tag| !is_first(tag)));
        let words = ordered.map(|tag| self.word(&tag.name));
        // What stands in front need not be said again.
        let words = words.filter(|word| !word.is_empty() && !self.prepend.contains(word));
        self.prepend.iter().cloned().chain(words).collect::<Vec<_>>().join(", ")
    }

    fn word(&self, name: &str) -> String {
        // The operator's own words are written as they are.
        let spaced = spaced(name);
        if let Some(replacement) = self.replace.get(&spaced) {
            return replacement.clone();
        }
        let as_it_is = self.underscores || EMOTICONS.contains(&name);
        let word = if as_it_is { name.to_owned() } else { spaced };
        if self.escape_parentheses { word.replace('(', "\\(").replace(')', "\\)") } else { word }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags<const N: usize>(names: [&str; N]) -> Vec<Tag> {
        let tag = |name: &str| Tag { name: name.to_owned(), category: "general".into(), score: 0.5 };
        names.into_iter().map(tag).collect()
    }

    #[test]
    fn underscores_are_spaces_but_in_faces() {
        let tags = tags(["hatsune_miku", "^_^", "don't_say_\"lazy\"", "a\\b_(c)", "||_||"]);
        assert_eq!(Settings::default().caption(&tags), "hatsune miku, ^_^, don't say \"lazy\", a\\b (c), ||_||");
    }

    #[test]
    fn tags_can_be_left_out_reworded_and_escaped() {
        let settings = Settings {
            exclude: HashSet::from(["solo".into()]),
            replace: HashMap::from([("1girl".into(), "a (young) woman".into())]),
            escape_parentheses: true,
            ..Settings::default()
        };
        let mut tags = tags(["1girl", "solo", "saber_(fate)", "(o)_(o)"]);
        settings.filter(&mut tags);
        assert_eq!(tags[0].name, "1girl", "tags keep the names of the label file");
        assert_eq!(settings.caption(&tags), "a (young) woman, saber \\(fate\\), \\(o\\)_\\(o\\)");
    }

    #[test]
    fn captions_for_training_begin_as_they_should() {
        let settings = Settings {
            underscores: true,
            characters_first: true,
            prepend: vec!["my style".into(), "solo".into()],
            ..Settings::default()
        };
        let mut tags = tags(["long_hair", "solo", "hatsune_miku", "^_^"]);
        tags[2].category = "character".into();
        assert_eq!(settings.caption(&tags), "my style, solo, hatsune_miku, long_hair, ^_^");
        assert_eq!(settings.caption(&[]), "my style, solo");
    }
}
