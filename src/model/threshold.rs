//! Thresholds that separate tags from other labels: a score, or the largest gap between the scores themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::category::{CHARACTER, GENERAL};

/// WD taggers' default, if neither job, flag nor model sets one.
const DEFAULT_GENERAL: Threshold = Threshold::Over(0.35);
/// Default for characters, where errors are worse.
const DEFAULT_CHARACTER: Threshold = Threshold::Over(0.85);
/// Minimum for the score cut at a gap, except for general tags, as for characters in the WD taggers' demo: most pictures
/// show no label of other categories.
const LOWEST_GAP: f32 = 0.15;

/// Threshold of one category.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Scores strictly over this, in 0..=1.
    Over(f32),
    /// Scores over the middle of the largest gap between two consecutive ones (maximum cut, Largeron et al., "`MCut`: a
    /// thresholding strategy for multi-label classification", 2012).
    MCut,
}

/// Error for an invalid threshold.
#[derive(Debug, thiserror::Error)]
#[error("{0} is neither a number from 0 to 1 nor mcut")]
pub struct InvalidThreshold(String);

impl Threshold {
    fn over(score: f32) -> Result<Self, InvalidThreshold> {
        let valid = (0.0..=1.0).contains(&score);
        if valid { Ok(Self::Over(score)) } else { Err(InvalidThreshold(score.to_string())) }
    }

    /// Resolves the threshold to a score, given the scores of all labels of the category.
    fn among(self, category: &str, scores: impl Iterator<Item = f32>) -> f32 {
        match self {
            Self::Over(score) => score,
            Self::MCut if category == GENERAL => largest_gap(scores.collect()),
            Self::MCut => largest_gap(scores.collect()).max(LOWEST_GAP),
        }
    }
}

/// Middle of the largest gap between two consecutive scores; the highest of equal gaps.
fn largest_gap(mut scores: Vec<f32>) -> f32 {
    scores.sort_by(|a, b| b.total_cmp(a));
    let mut largest = (0.0, 1.0);
    for pair in scores.windows(2) {
        let gap = pair[0] - pair[1];
        if gap > largest.0 {
            largest = (gap, f32::midpoint(pair[0], pair[1]));
        }
    }
    largest.1
}

impl FromStr for Threshold {
    type Err = InvalidThreshold;

    fn from_str(text: &str) -> Result<Self, InvalidThreshold> {
        if text == "mcut" {
            return Ok(Self::MCut);
        }
        text.parse().map_err(|_| InvalidThreshold(format!("`{text}`"))).and_then(Self::over)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over(score) => score.fmt(f),
            Self::MCut => f.write_str("mcut"),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Over(score) => serializer.serialize_f32(*score),
            Self::MCut => serializer.serialize_str("mcut"),
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number from 0 to 1, or \"mcut\"")]
        enum Written {
            Score(f32),
            Name(String),
        }
        let threshold = match Written::deserialize(deserializer)? {
            Written::Score(score) => Self::over(score),
            Written::Name(name) if name == "mcut" => Ok(Self::MCut),
            Written::Name(name) => Err(InvalidThreshold(format!("`{name}`"))),
        };
        threshold.map_err(serde::de::Error::custom)
    }
}

/// Thresholds that are set, by category.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    by_category: BTreeMap<String, Threshold>,
    /// Threshold of all other categories.
    all: Option<Threshold>,
}

impl Thresholds {
    /// Adds a threshold for a category, if given.
    #[must_use]
    pub fn with(mut self, category: &str, threshold: Option<Threshold>) -> Self {
        if let Some(threshold) = threshold {
            self.by_category.insert(category.to_owned(), threshold);
        }
        self
    }

    /// Adds a threshold for all categories without one, if given.
    #[must_use]
    pub fn with_all(mut self, threshold: Option<Threshold>) -> Self {
        self.all = threshold;
        self
    }

    /// Fills in those that are not set from `fallback`.
    #[must_use]
    pub fn or(mut self, fallback: &Self) -> Self {
        if self.all.is_none() {
            for (category, threshold) in &fallback.by_category {
                self.by_category.entry(category.clone()).or_insert(*threshold);
            }
            self.all = fallback.all;
        }
        self
    }

    /// Returns `true` if none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_category.is_empty() && self.all.is_none()
    }

    /// Categories with a threshold of their own.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        self.by_category.keys().map(String::as_str)
    }

    /// Threshold of a category: its own, or that of general tags.
    #[must_use]
    pub fn of(&self, category: &str) -> Threshold {
        let set = self.by_category.get(category).copied().or(self.all);
        match category {
            CHARACTER => set.unwrap_or(DEFAULT_CHARACTER),
            GENERAL => set.unwrap_or(DEFAULT_GENERAL),
            _ => set.unwrap_or_else(|| self.of(GENERAL)),
        }
    }

    /// Score that labels of this category must exceed, given the scores of all of them.
    pub(super) fn cut(&self, category: &str, scores: impl Iterator<Item = f32>) -> f32 {
        self.of(category).among(category, scores)
    }
}

impl<'de> Deserialize<'de> for Thresholds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let set = BTreeMap::<String, Option<Threshold>>::deserialize(deserializer)?;
        let set = set.into_iter().filter_map(|(category, threshold)| Some((category, threshold?)));
        Ok(Self { by_category: set.collect(), all: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_category_without_a_threshold_has_that_of_general_tags() {
        let set = Thresholds::default().with("general", Some(Threshold::Over(0.5))).with("species", None);
        assert_eq!(set.of("species"), Threshold::Over(0.5));
        assert_eq!(set.of("character"), DEFAULT_CHARACTER);
        assert_eq!(Thresholds::default().of("artist"), DEFAULT_GENERAL);
    }

    #[test]
    fn one_for_all_categories_wins_over_what_comes_after_it() {
        let over = |score| Some(Threshold::Over(score));
        let flags = Thresholds::default().with("character", over(0.9)).with_all(over(0.2));
        let both = flags.or(&Thresholds::default().with("general", over(0.5)).with("meta", over(0.6)));
        let set = ["general", "meta", "artist"].map(|category| both.of(category));
        assert_eq!((set, both.of("character")), ([Threshold::Over(0.2); 3], Threshold::Over(0.9)));
        let job = Thresholds::default().with("general", over(0.7)).or(&both);
        assert_eq!((job.of("general"), job.of("meta")), (Threshold::Over(0.7), Threshold::Over(0.2)));
    }

    #[test]
    fn what_is_set_first_wins() {
        let job = Thresholds::default().with("general", Some(Threshold::MCut));
        let flag =
            Thresholds::default().with("general", Some(Threshold::Over(0.1))).with("meta", Some(Threshold::Over(0.2)));
        let both = job.or(&flag);
        assert_eq!((both.of("general"), both.of("meta")), (Threshold::MCut, Threshold::Over(0.2)));
    }

    #[test]
    fn a_threshold_is_a_number_or_mcut_in_text_and_in_json() {
        assert_eq!("mcut".parse::<Threshold>().expect("one"), Threshold::MCut);
        assert_eq!(Threshold::MCut.to_string(), "mcut");
        assert_eq!("0.5".parse::<Threshold>().expect("one"), Threshold::Over(0.5));
        assert_eq!(serde_json::from_str::<Threshold>(r#""mcut""#).expect("one"), Threshold::MCut);
        assert_eq!(serde_json::from_str::<Threshold>("0.5").expect("one"), Threshold::Over(0.5));
        for wrong in ["half", "1.5", "-0.1"] {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
            assert!(serde_json::from_str::<Threshold>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_gaps_that_are_alike_the_highest_is_cut() {
        assert!((largest_gap(vec![0.25, 0.75, 0.5]) - 0.625).abs() < f32::EPSILON);
    }

    #[test]
    fn the_largest_gap_is_cut_in_the_middle() {
        assert!((largest_gap(vec![0.1, 0.9, 0.8, 0.2]) - 0.5).abs() < 1e-6);
        assert!((largest_gap(vec![]) - 1.0).abs() < 1e-6, "of nothing, nothing is a tag");
        let characters = Threshold::MCut.among(CHARACTER, [0.12, 0.01].into_iter());
        assert!((characters - LOWEST_GAP).abs() < 1e-6);
        let general = Threshold::MCut.among(GENERAL, [0.12, 0.02].into_iter());
        assert!((general - 0.07).abs() < 1e-6, "only the others have a lowest");
    }

    proptest! {
        #[test]
        fn a_gap_has_scores_on_both_sides_and_none_within(scores in prop::collection::vec(0.0f32..1.0, 2..40)) {
            let cut = largest_gap(scores.clone());
            let above = scores.iter().copied().filter(|score| *score > cut).fold(1.0, f32::min);
            let below = scores.iter().copied().filter(|score| *score <= cut).fold(0.0, f32::max);
            let mut sorted = scores;
            sorted.sort_by(f32::total_cmp);
            let widest = sorted.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
            prop_assert!((above - below) >= widest - 1e-6, "{above} - {below} < {widest}");
        }
    }
}
