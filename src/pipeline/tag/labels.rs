//! A model's labels: which column of its output means what, and which scores make tags.

use std::collections::HashSet;
use std::io::Read;

use serde::Deserialize;

use crate::job::Thresholds;
use crate::tags::{Tag, Tags, score};

/// Thresholds where neither job, flag nor model sets any: the WD taggers' own.
pub const DEFAULT_GENERAL: f32 = 0.35;
/// For characters, which are worse to get wrong.
pub const DEFAULT_CHARACTER: f32 = 0.85;

/// Names that are faces, not words: their underscores stay in captions.
const EMOTICONS: [&str; 19] = [
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^",
    "o_o", "u_u", "x_x", "|_|", "||_||",
];

/// What kind of thing a label names; the numbers are those of the label files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// 0
    General,
    /// 1
    Artist,
    /// 3
    Copyright,
    /// 4
    Character,
    /// 5
    Meta,
    /// 9
    Rating,
}

impl Category {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::General,
            1 => Self::Artist,
            3 => Self::Copyright,
            4 => Self::Character,
            5 => Self::Meta,
            9 => Self::Rating,
            _ => return None,
        })
    }

    /// As results name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Artist => "artist",
            Self::Copyright => "copyright",
            Self::Character => "character",
            Self::Meta => "meta",
            Self::Rating => "rating",
        }
    }
}

/// Why a label file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLabels {
    /// Not CSV, or without the columns `name` and `category`.
    #[error("expected CSV with the columns tag_id,name,category,count: {0}")]
    Csv(#[from] csv::Error),
    /// A category no one knows.
    #[error(
        "label {row} (`{name}`) has category {category}; known are 0 general, 1 artist, 3 copyright, 4 character, 5 meta, 9 rating"
    )]
    Category {
        /// From 0.
        row: usize,
        /// The label.
        name: String,
        /// Its category.
        category: u32,
    },
    /// No rows.
    #[error("it has no labels")]
    Empty,
}

/// The labels of a model, in the order of its output.
#[derive(Clone, Debug)]
pub struct Labels {
    labels: Vec<Label>,
    emoticons: HashSet<&'static str>,
}

#[derive(Clone, Debug)]
struct Label {
    name: String,
    category: Category,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    category: u32,
}

impl Labels {
    /// Reads `selected_tags.csv`: one label per row, in the order of the model's output.
    ///
    /// # Errors
    /// Where it is no such file.
    pub fn read(csv: impl Read) -> Result<Self, InvalidLabels> {
        let mut labels = Vec::new();
        for (row, record) in csv::Reader::from_reader(csv).deserialize().enumerate() {
            let Row { name, category } = record?;
            let Some(category) = Category::from_number(category) else {
                return Err(InvalidLabels::Category { row, name, category });
            };
            labels.push(Label { name, category });
        }
        if labels.is_empty() {
            return Err(InvalidLabels::Empty);
        }
        Ok(Self { labels, emoticons: HashSet::from(EMOTICONS) })
    }

    /// How many there are: the width of the model's output.
    #[must_use]
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// What the scores of one image, one per label, say of it: tags strictly over their threshold, highest first.
    #[must_use]
    pub fn select(&self, scores: &[f32], thresholds: Thresholds) -> Tags {
        let general = thresholds.general.unwrap_or(DEFAULT_GENERAL);
        let character = thresholds.character.unwrap_or(DEFAULT_CHARACTER);
        let mut rating = Vec::new();
        let mut over = Vec::new();
        for (label, &value) in self.labels.iter().zip(scores) {
            let threshold = match label.category {
                Category::Rating => {
                    rating.push((label.name.clone(), score(value)));
                    continue;
                }
                Category::Character => character,
                _ => general,
            };
            if value > threshold {
                over.push((label, value));
            }
        }
        // Stable, so that equal scores keep the label file's order.
        over.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let text = over.iter().map(|(label, _)| self.caption(&label.name)).collect::<Vec<_>>().join(", ");
        let tags = over.into_iter().map(|(label, value)| Tag {
            name: label.name.clone(),
            category: label.category.as_str(),
            score: score(value),
        });
        Tags { rating, tags: tags.collect(), text }
    }

    fn caption(&self, name: &str) -> String {
        if self.emoticons.contains(name) { name.to_owned() } else { name.replace('_', " ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "tag_id,name,category,count\n\
        1,general,9,1\n2,explicit,9,1\n3,long_hair,0,1\n4,hatsune_miku,4,1\n5,^_^,0,1\n6,\"don't_say_\"\"lazy\"\"\",3,1\n7,a\\b_(c),0,1\n";

    fn select(scores: [f32; 7], thresholds: Thresholds) -> Tags {
        Labels::read(FILE.as_bytes()).expect("labels").select(&scores, thresholds)
    }

    #[test]
    fn tags_are_over_their_threshold_highest_first_with_ratings_apart() {
        let tags = select([0.9, 0.1, 0.5, 0.86, 0.7, 0.4, 0.36], Thresholds::default());
        assert_eq!(tags.rating, [("general".to_owned(), 0.9), ("explicit".to_owned(), 0.1)]);
        let names: Vec<_> = tags.tags.iter().map(|tag| (tag.name.as_str(), tag.category)).collect();
        assert_eq!(
            names,
            [
                ("hatsune_miku", "character"),
                ("^_^", "general"),
                ("long_hair", "general"),
                ("don't_say_\"lazy\"", "copyright"),
                ("a\\b_(c)", "general")
            ]
        );
        assert_eq!(tags.text, "hatsune miku, ^_^, long hair, don't say \"lazy\", a\\b (c)");
    }

    #[test]
    fn a_score_at_its_threshold_is_no_tag() {
        let thresholds = Thresholds { general: Some(0.5), character: Some(0.25) };
        let tags = select([0.0, 0.0, 0.5, 0.25, 0.500_001, 0.0, 0.0], thresholds);
        assert_eq!(tags.text, "^_^");
        assert!((tags.tags[0].score - 0.5).abs() < 1e-9, "rounded only when reported");
    }

    #[test]
    fn refuses_what_is_no_label_file() {
        assert!(matches!(Labels::read("".as_bytes()), Err(InvalidLabels::Empty)));
        assert!(matches!(Labels::read("a,b\n1,2\n".as_bytes()), Err(InvalidLabels::Csv(_))));
        let odd = "tag_id,name,category,count\n1,x,7,1\n";
        assert!(matches!(Labels::read(odd.as_bytes()), Err(InvalidLabels::Category { row: 0, category: 7, .. })));
    }
}
