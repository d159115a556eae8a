//! Agreement of two models' scores for the same images.

use std::collections::HashSet;

use serde::Serialize;

use crate::optimize::Precision;
use crate::pipeline::loaded::LoadedModel;

/// Bounds that a new model must keep.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Gate {
    /// Largest difference of a score.
    pub(super) tolerance: f32,
    /// Smallest share of equal tags.
    pub(super) agreement: f32,
}

impl Gate {
    /// The bounds of a precision, where the user sets none.
    pub(super) fn of(precision: Precision, tolerance: Option<f32>, agreement: Option<f32>) -> Self {
        let (usual, share) = if precision == Precision::Int8 { (0.2, 0.9) } else { (0.02, 0.98) };
        Self { tolerance: tolerance.unwrap_or(usual), agreement: agreement.unwrap_or(share) }
    }
}

/// Differences between the scores of two models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Agreement {
    /// Images compared.
    pub(super) images: usize,
    /// Scores compared.
    pub(super) scores: usize,
    /// Largest difference of a score.
    pub(super) largest_difference: f32,
    /// Mean difference of a score.
    pub(super) mean_difference: f64,
    /// Tags that at least one of the models gave.
    pub(super) tags: usize,
    /// Share of them that both gave.
    pub(super) equal_tags: f64,
    /// The same, where those do not count that differ by no more than the tolerance: their scores are at a threshold.
    pub(super) equal_tags_off_thresholds: f64,
}

impl Agreement {
    /// Compares the scores of images, in the same order of both models.
    pub(super) fn of(model: &LoadedModel, old: &[Vec<f32>], new: &[Vec<f32>], tolerance: f32) -> Self {
        let (mut largest, mut sum, mut scores) = (0.0_f32, 0.0_f64, 0_usize);
        let (mut tags, mut one, mut one_off) = (0, 0, 0);
        for (old, new) in old.iter().zip(new) {
            for (a, b) in old.iter().zip(new) {
                let difference = (a - b).abs();
                // NaN differs from everything.
                largest = if difference.is_nan() { f32::INFINITY } else { largest.max(difference) };
                sum += f64::from(difference);
            }
            scores += old.len();
            let (old_tags, new_tags) = (selected(model, old), selected(model, new));
            tags += old_tags.union(&new_tags).count();
            for tag in old_tags.symmetric_difference(&new_tags) {
                one += 1;
                one_off += usize::from((old[*tag] - new[*tag]).abs() > tolerance);
            }
        }
        Self {
            images: old.len(),
            scores,
            largest_difference: largest,
            mean_difference: share(sum, scores),
            tags,
            equal_tags: 1.0 - share(count(one), tags),
            equal_tags_off_thresholds: 1.0 - share(count(one_off), tags),
        }
    }

    /// The bound that is not kept, if there is one.
    pub(super) fn refused(&self, gate: Gate) -> Option<String> {
        let Self { largest_difference, equal_tags, .. } = self;
        if *largest_difference > gate.tolerance {
            return Some(format!(
                "a score differs by {largest_difference:.4}, more than {} (--tolerance)",
                gate.tolerance
            ));
        }
        let agreement = f64::from(gate.agreement);
        (*equal_tags < agreement).then(|| {
            format!(
                "{:.2} % of the tags are equal, fewer than {:.2} % (--agreement)",
                100.0 * equal_tags,
                100.0 * agreement
            )
        })
    }
}

/// Places of the labels that are tags.
fn selected(model: &LoadedModel, scores: &[f32]) -> HashSet<usize> {
    model.labels.over(scores, &model.thresholds).collect()
}

fn share(part: f64, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part / count(all) }
}

#[expect(clippy::cast_precision_loss, reason = "a few million scores")]
const fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::category::GENERAL;
    use crate::model::frame::{Filter, Fit, Frame};
    use crate::model::labels::{Label, Labels};
    use crate::model::threshold::Thresholds;
    use crate::tags::ModelId;

    fn compared(old: &[f32], new: &[f32]) -> Agreement {
        let labels = ["a", "b", "c"].map(|name| Label { name: name.into(), category: GENERAL.into() });
        let model = LoadedModel {
            id: ModelId { name: "m".into(), sha256: String::new() },
            frame: Frame { side: 1, fit: Fit::Stretch, filter: Filter::Bicubic },
            labels: Labels::new(labels.into()),
            thresholds: Thresholds::default(),
            devices: Vec::new(),
        };
        Agreement::of(&model, &[old.to_vec()], &[new.to_vec()], 0.02)
    }

    const GATE: Gate = Gate { tolerance: 0.02, agreement: 0.98 };

    #[test]
    fn equal_scores_agree() {
        let found = compared(&[0.9, 0.1, 0.5], &[0.9, 0.1, 0.5]);
        assert_eq!((found.largest_difference, found.tags, found.refused(GATE)), (0.0, 2, None));
        assert!((found.equal_tags - 1.0).abs() < 1e-9);
    }

    #[test]
    fn tags_at_a_threshold_count_apart() {
        let found = compared(&[0.9, 0.345, 0.8], &[0.9, 0.355, 0.8]);
        assert!((found.equal_tags - 2.0 / 3.0).abs() < 1e-9, "{found:?}");
        assert!((found.equal_tags_off_thresholds - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found.refused(GATE).is_some_and(|reason| reason.contains("--agreement")));
    }

    #[test]
    fn one_score_far_off_is_refused() {
        let reason = compared(&[0.9, 0.1, 0.5], &[0.9, 0.15, 0.5]).refused(GATE).expect("refused");
        assert!(reason.contains("0.0500") && reason.contains("--tolerance"), "{reason}");
        assert!(compared(&[0.9, 0.1, 0.5], &[f32::NAN, 0.1, 0.5]).refused(GATE).is_some());
    }
}
