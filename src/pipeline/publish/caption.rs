//! Captions: tags as one line of text, without excluded ones.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::category::{CHARACTER, RATING};
use crate::model::labels::Labels;
use crate::tags::Tag;
use crate::text::one_line;

/// Names that are faces, not words, and keep their underscores.
const EMOTICONS: [&str; 19] = [
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^",
    "o_o", "u_u", "x_x", "|_|", "||_||",
];

/// Settings of captions and of excluded tags.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Settings {
    /// Tags never reported, by their [`spaced`] names.
    pub exclude: HashSet<String>,
    /// Categories whose tags are never reported.
    pub exclude_categories: HashSet<String>,
    /// Text in captions instead of a tag, by its spaced name.
    pub replace: HashMap<String, String>,
    /// Text of captions instead of the tags of a category.
    pub replace_categories: HashMap<String, String>,
    /// `true` if captions escape parentheses with a backslash, as prompts require.
    pub escape_parentheses: bool,
    /// `true` if underscores are kept.
    pub underscores: bool,
    /// `true` if characters precede all other tags.
    pub characters_first: bool,
    /// Start of every caption.
    pub prepend: Vec<String>,
    /// Tags that follow the start if an image has them, by their spaced names.
    pub first: Vec<String>,
    /// Position of the rating, if it is shown.
    pub rating: Option<Place>,
    /// `true` if characters named with their series become two tags.
    pub expand_characters: bool,
    /// Maximum number of tags in a caption, if limited: the ones with the highest scores.
    pub max_tags: Option<usize>,
    /// Separator of tags, if it is not [`SEPARATOR`].
    pub separator: Option<String>,
}

/// Position of a rating in a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the tags, except those of `first`.
    First,
    /// After the tags.
    Last,
}

/// Separator of tags.
const SEPARATOR: &str = ", ";

/// Name of a tag as people write it: with spaces instead of underscores.
#[must_use]
pub(crate) fn spaced(name: &str) -> String {
    one_line(name).replace('_', " ")
}

impl Settings {
    /// Removes excluded tags.
    pub(crate) fn filter(&self, tags: &mut Vec<Tag>) {
        if !self.exclude.is_empty() || !self.exclude_categories.is_empty() {
            tags.retain(|tag| !self.excludes(&tag.name, &tag.category));
        }
    }

    fn excludes(&self, name: &str, category: &str) -> bool {
        self.exclude.contains(&spaced(name)) || self.exclude_categories.contains(category)
    }

    /// Separator of tags.
    pub(crate) fn separator(&self) -> &str {
        self.separator.as_deref().unwrap_or(SEPARATOR)
    }

    /// Warns of names that no label of the model has, and that therefore have no effect.
    pub(crate) fn check(&self, model: &str, labels: &Labels) {
        let lists: [(&str, BTreeSet<&String>); 3] = [
            ("--exclude-tag", self.exclude.iter().collect()),
            ("--replace-tag", self.replace.keys().collect()),
            ("--first-tag", self.first.iter().collect()),
        ];
        let some = lists.iter().any(|(_, names)| !names.is_empty());
        let known: HashSet<_> = if some { labels.names().map(spaced).collect() } else { HashSet::new() };
        for (flag, mut unknown) in lists {
            unknown.retain(|name| !known.contains(*name));
            if !unknown.is_empty() {
                tracing::warn!(model, ?unknown, "the model has no such tags ({flag})");
            }
        }
        let known: BTreeSet<_> = labels.categories().map(|(name, _)| name).collect();
        let lists: [(&str, BTreeSet<&String>); 2] = [
            ("--exclude-category", self.exclude_categories.iter().collect()),
            ("--replace-category", self.replace_categories.keys().collect()),
        ];
        for (flag, mut unknown) in lists {
            unknown.retain(|name| !known.contains(name.as_str()));
            if !unknown.is_empty() {
                tracing::warn!(model, ?unknown, ?known, "the model has no such categories ({flag})");
            }
        }
    }

    /// Caption of the tags in their order, joined with the separator. Underscores become spaces, except in faces.
    #[must_use]
    pub(crate) fn caption(&self, tags: &[Tag], rating: &[(String, f64)]) -> String {
        let some = tags.iter().take(self.max_tags.unwrap_or(usize::MAX));
        let mut ranked: Vec<_> = some.map(|tag| (self.rank(tag), self.words(tag))).collect();
        if let (Some(place), Some(name)) = (self.rating, self.top(rating)) {
            let rank = match place {
                Place::First => self.first.len(),
                Place::Last => usize::MAX,
            };
            ranked.insert(0, (rank, vec![self.of_category(name, RATING).unwrap_or_else(|| self.word(name))]));
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut caption: Vec<String> = self.prepend.clone();
        for word in ranked.into_iter().flat_map(|(_, words)| words) {
            // Words already in the caption are not repeated.
            if !word.is_empty() && !caption.contains(&word) {
                caption.push(word);
            }
        }
        caption.join(self.separator())
    }

    /// Rank of a tag in a caption: first tags in their order, then the rating, characters, the rest.
    fn rank(&self, tag: &Tag) -> usize {
        let first = || {
            let name = spaced(&tag.name);
            self.first.iter().position(|first| *first == name)
        };
        match (self.first.is_empty(), self.characters_first && tag.category == CHARACTER) {
            (false, is_character) => first().unwrap_or(self.first.len() + 2 - usize::from(is_character)),
            (true, is_character) => 2 - usize::from(is_character),
        }
    }

    /// Rating with the highest score, unless it is excluded.
    fn top<'a>(&self, rating: &'a [(String, f64)]) -> Option<&'a str> {
        let (name, _) = rating.iter().max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (!self.excludes(name, RATING)).then_some(name.as_str())
    }

    /// Words of a tag in a caption; two for a character with its series in parentheses, if they are expanded.
    fn words(&self, tag: &Tag) -> Vec<String> {
        let split = || {
            let (name, series) = tag.name.strip_suffix(')')?.rsplit_once('(')?;
            let name = name.trim_end_matches(['_', ' ']);
            (!name.is_empty() && !series.is_empty()).then_some((name, series))
        };
        let replaced = self.replace.contains_key(&spaced(&tag.name));
        if let Some(text) = self.of_category(&tag.name, &tag.category) {
            return vec![text];
        }
        match split().filter(|_| self.expand_characters && tag.category == CHARACTER && !replaced) {
            Some((name, series)) => vec![self.word(name), self.word(series)],
            None => vec![self.word(&tag.name)],
        }
    }

    /// Text for all tags of a category, unless there is one for this tag.
    fn of_category(&self, name: &str, category: &str) -> Option<String> {
        self.replace_categories.get(category).filter(|_| !self.replace.contains_key(&spaced(name))).cloned()
    }

    fn word(&self, name: &str) -> String {
        // Replacements are written as the operator gave them.
        let spaced = spaced(name);
        if let Some(replacement) = self.replace.get(&spaced) {
            return replacement.clone();
        }
        let as_it_is = self.underscores || EMOTICONS.contains(&name);
        let word = if as_it_is { one_line(name).into_owned() } else { spaced };
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
        assert_eq!(Settings::default().caption(&tags, &[]), "hatsune miku, ^_^, don't say \"lazy\", a\\b (c), ||_||");
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
        assert_eq!(settings.caption(&tags, &[]), "a (young) woman, saber \\(fate\\), \\(o\\)_\\(o\\)");
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
        assert_eq!(settings.caption(&tags, &[]), "my style, solo, hatsune_miku, long_hair, ^_^");
        assert_eq!(settings.caption(&[], &[]), "my style, solo");
    }

    #[test]
    fn ratings_first_tags_and_characters_stand_where_they_should() {
        let mut tags = tags(["long_hair", "saber_(fate)", "1girl", "fate", "solo"]);
        tags[1].category = "character".into();
        let rating = [("general".to_owned(), 0.2), ("explicit".to_owned(), 0.7)];
        let settings = Settings {
            characters_first: true,
            first: vec!["solo".into(), "1girl".into(), "1boy".into()],
            rating: Some(Place::First),
            ..Settings::default()
        };
        assert_eq!(settings.caption(&tags, &rating), "solo, 1girl, explicit, saber (fate), long hair, fate");
        let settings = Settings {
            rating: Some(Place::Last),
            replace: HashMap::from([("explicit".into(), "nsfw".into())]),
            expand_characters: true,
            max_tags: Some(4),
            separator: Some(" | ".into()),
            ..settings
        };
        assert_eq!(settings.caption(&tags, &rating), "1girl | saber | fate | long hair | nsfw", "each word once");
        let none = Settings { exclude: HashSet::from(["explicit".into()]), ..settings.clone() };
        assert!(!none.caption(&tags, &rating).contains("nsfw"));
        let none = Settings { exclude_categories: HashSet::from(["rating".into(), "character".into()]), ..settings };
        none.filter(&mut tags);
        assert_eq!(none.caption(&tags, &rating), "solo | 1girl | long hair | fate");
    }

    #[test]
    fn a_category_is_replaced_by_its_name_and_a_tag_of_its_own_before_it() {
        let mut tags = tags(["long_hair", "saber_(fate)", "hatsune_miku", "solo"]);
        tags[1].category = "character".into();
        tags[2].category = "character".into();
        let rating = [("general".to_owned(), 0.9)];
        let settings = Settings {
            replace: HashMap::from([("saber (fate)".into(), "a knight".into())]),
            replace_categories: HashMap::from([
                ("character".into(), "someone".into()),
                ("rating".into(), "rated".into()),
            ]),
            rating: Some(Place::Last),
            expand_characters: true,
            ..Settings::default()
        };
        assert_eq!(settings.caption(&tags, &rating), "long hair, a knight, someone, solo, rated");
        let out = Settings { replace_categories: HashMap::from([("character".into(), String::new())]), ..settings };
        assert_eq!(out.caption(&tags, &rating), "long hair, a knight, solo, general");
    }
}
