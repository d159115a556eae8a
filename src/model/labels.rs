//! Labels of a model: the meaning of its output's columns, and the selection of tags by score.

use std::sync::Arc;

use super::category::RATING;
use super::threshold::Thresholds;
use crate::tags::{Tag, score};

/// One column of a model's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name as in the label file.
    pub name: String,
    /// Name of its category.
    pub category: Arc<str>,
}

/// Labels of a model, in the order of its output.
#[derive(Clone, Debug)]
pub struct Labels {
    columns: Vec<Label>,
    categories: Vec<Arc<str>>,
    /// Index of each label's category in `categories`.
    kinds: Vec<usize>,
}

/// Rating and tags selected from the scores of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// Score of every rating, in the label file's order.
    pub rating: Vec<(String, f64)>,
    /// Every tag strictly over its category's threshold, highest score first.
    pub tags: Vec<Tag>,
}

impl Labels {
    /// Creates labels in the order of the output's columns.
    #[must_use]
    pub fn new(labels: Vec<Label>) -> Self {
        let mut categories: Vec<Arc<str>> = labels.iter().map(|label| Arc::clone(&label.category)).collect();
        categories.sort();
        categories.dedup();
        let kinds = labels.iter().filter_map(|label| categories.binary_search(&label.category).ok()).collect();
        Self { columns: labels, categories, kinds }
    }

    /// Number of labels, which is the width of the model's output.
    #[must_use]
    pub fn count(&self) -> usize {
        self.columns.len()
    }

    /// Names of the labels, in the order of the output's columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|label| &*label.name)
    }

    /// Number of labels in each category.
    pub fn categories(&self) -> impl Iterator<Item = (&str, usize)> {
        let count = |kind| self.kinds.iter().filter(|of| **of == kind).count();
        self.categories.iter().enumerate().map(move |(kind, category)| (&**category, count(kind)))
    }

    /// The score that a tag must be over, by category; none for ratings.
    fn cuts(&self, scores: &[f32], thresholds: &Thresholds) -> Vec<Option<f32>> {
        let cut = |(kind, category): (usize, &Arc<str>)| {
            let scores = self.kinds.iter().zip(scores).filter(move |(of, _)| **of == kind).map(|(_, score)| *score);
            (**category != *RATING).then(|| thresholds.cut(category, scores))
        };
        self.categories.iter().enumerate().map(cut).collect()
    }

    /// Places of the labels that are tags by these scores, in the order of the output's columns.
    pub(crate) fn over(&self, scores: &[f32], thresholds: &Thresholds) -> impl Iterator<Item = usize> {
        let cuts = self.cuts(scores, thresholds);
        let columns = self.kinds.iter().zip(scores).enumerate();
        columns
            .filter(move |(_, (kind, score))| cuts[**kind].is_some_and(|cut| **score > cut))
            .map(|(column, _)| column)
    }

    /// Selects rating and tags from the scores of one image, one score per label.
    #[must_use]
    pub fn select(&self, scores: &[f32], thresholds: &Thresholds) -> Selected {
        let cuts = self.cuts(scores, thresholds);
        let (mut rating, mut over) = (Vec::new(), Vec::new());
        for (column, ((label, &kind), &value)) in self.columns.iter().zip(&self.kinds).zip(scores).enumerate() {
            match cuts[kind] {
                None => rating.push((label.name.clone(), score(value))),
                Some(cut) if value > cut => over.push((column, label, value)),
                Some(_) => {}
            }
        }
        // Equal scores keep the label file's order.
        over.sort_by(|(left, _, a), (right, _, b)| b.total_cmp(a).then(left.cmp(right)));
        let tags = over.into_iter().map(|(_, label, value)| tag(label, value));
        Selected { rating, tags: tags.collect() }
    }

    /// Every label with a score of at least `least`, highest first.
    #[must_use]
    pub fn scores_from(&self, scores: &[f32], least: f32) -> Vec<Tag> {
        let mut listed: Vec<_> = self.columns.iter().zip(scores).filter(|(_, score)| **score >= least).collect();
        listed.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        listed.into_iter().map(|(label, value)| tag(label, *value)).collect()
    }
}

fn tag(label: &Label, value: f32) -> Tag {
    Tag { name: label.name.clone(), category: label.category.to_string(), score: score(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::category::{CHARACTER, GENERAL};
    use crate::model::threshold::Threshold;

    fn labels() -> Labels {
        let label = |(name, category): &(&str, &str)| Label { name: (*name).into(), category: (*category).into() };
        let names = [
            ("general", RATING),
            ("explicit", RATING),
            ("long_hair", GENERAL),
            ("hatsune_miku", CHARACTER),
            ("^_^", GENERAL),
            ("wolf", "species"),
            ("solo", GENERAL),
        ];
        Labels::new(names.iter().map(label).collect())
    }

    #[test]
    fn labels_are_counted_by_category() {
        let counted: Vec<(String, usize)> = labels().categories().map(|(name, count)| (name.into(), count)).collect();
        let expected = [(CHARACTER, 1), (GENERAL, 3), (RATING, 2), ("species", 1)];
        assert_eq!(counted, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    fn names(scores: [f32; 7], thresholds: &Thresholds) -> Vec<(String, String)> {
        let selected = labels().select(&scores, thresholds);
        selected.tags.into_iter().map(|tag| (tag.name, tag.category)).collect()
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, category)| ((*name).to_owned(), (*category).to_owned())).collect()
    }

    #[test]
    fn tags_are_over_their_threshold_highest_first_with_ratings_apart() {
        let scores = [0.9, 0.1, 0.5, 0.86, 0.7, 0.4, 0.36];
        let expected = pairs([
            ("hatsune_miku", CHARACTER),
            ("^_^", GENERAL),
            ("long_hair", GENERAL),
            ("wolf", "species"),
            ("solo", GENERAL),
        ]);
        assert_eq!(names(scores, &Thresholds::default()), expected);
        let rating = labels().select(&scores, &Thresholds::default()).rating;
        assert_eq!(rating, [("general".to_owned(), 0.9), ("explicit".to_owned(), 0.1)]);
    }

    #[test]
    fn scores_are_listed_from_the_least_on() {
        let scores = [0.9, 0.01, 0.009, 0.86, 0.0, 0.4, 0.36];
        let listed = labels().scores_from(&scores, 0.01);
        let names: Vec<_> = listed.iter().map(|tag| tag.name.as_str()).collect();
        assert_eq!(names, ["general", "hatsune_miku", "wolf", "solo", "explicit"]);
    }

    #[test]
    fn a_score_at_its_threshold_is_no_tag() {
        let thresholds = Thresholds::default()
            .with(GENERAL, Some(Threshold::Over(0.5)))
            .with(CHARACTER, Some(Threshold::Over(0.25)));
        let scores = [0.0, 0.0, 0.5, 0.25, 0.500_001, 0.5, 0.0];
        assert_eq!(names(scores, &thresholds), pairs([("^_^", GENERAL)]));
        let tags = labels().select(&scores, &thresholds).tags;
        assert!((tags[0].score - 0.5).abs() < 1e-9, "rounded only when reported");
    }

    #[test]
    fn a_category_can_be_cut_at_its_own_largest_gap() {
        let thresholds =
            Thresholds::default().with(GENERAL, Some(Threshold::MCut)).with("species", Some(Threshold::Over(0.1)));
        let scores = [0.0, 0.0, 0.3, 0.84, 0.25, 0.2, 0.05];
        assert_eq!(names(scores, &thresholds), pairs([("long_hair", GENERAL), ("^_^", GENERAL), ("wolf", "species")]));
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_label_file() {
        let scores = [0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9];
        let order: Vec<_> = names(scores, &Thresholds::default()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["long_hair", "hatsune_miku", "^_^", "wolf", "solo"]);
    }
}
