//! A loaded model as the stages see it.

use crate::failure::{Code, Failure};
use crate::json;
use crate::model::category::{CHARACTER, GENERAL, RATING};
use crate::model::frame::Frame;
use crate::model::labels::Labels;
use crate::model::threshold::Thresholds;
use crate::tags::ModelId;

/// Properties of a loaded model, without the sessions that run it.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    /// Name and hash in answers.
    pub(crate) id: ModelId,
    /// Square that is its input.
    pub(crate) frame: Frame,
    /// Meaning of its output.
    pub(crate) labels: Labels,
    /// Thresholds of jobs that set none: the operator's, else the model's own.
    pub(crate) thresholds: Thresholds,
    /// Devices it runs on, one per session.
    pub(crate) devices: Vec<String>,
}

impl LoadedModel {
    /// Rejects thresholds without effect: of a category that no label has, or of ratings, which are always reported in full.
    /// Thresholds of general tags and characters are valid for every model.
    ///
    /// # Errors
    /// `bad_job`, with the category and the nearest valid one.
    pub(crate) fn check_thresholds(&self, thresholds: &Thresholds) -> Result<(), Failure> {
        let refused =
            |unknown| Failure::new(Code::BadJob, format!("not a job for the model `{}`: {unknown}", self.id.name));
        self.without_effect(thresholds).map_or(Ok(()), |unknown| Err(refused(unknown)))
    }

    /// Error for the first threshold without effect, with the nearest valid category, if any.
    pub(crate) fn without_effect(&self, thresholds: &Thresholds) -> Option<String> {
        let is_own = |category: &str| self.labels.categories().any(|(name, _)| name == category);
        let has_effect = |name: &str| name == GENERAL || name == CHARACTER || (name != RATING && is_own(name));
        let wrong = thresholds.categories().find(|name| !has_effect(name))?;
        let others = self.labels.categories().map(|(name, _)| name);
        let others = others.filter(|name| ![GENERAL, CHARACTER, RATING].contains(name));
        let known: Vec<_> = [GENERAL, CHARACTER].into_iter().chain(others).collect();
        Some(json::unknown_field(&format!("thresholds.{wrong}"), &known))
    }

    /// Devices, joined with commas.
    #[must_use]
    pub(crate) fn device(&self) -> String {
        self.devices.join(",")
    }

    /// Returns `true` if one of its devices prefetches: it copies the next batch while one runs. The CPU has nothing to
    /// copy, and an interactive row can still join a batch that closes later.
    #[must_use]
    pub(crate) fn prefetches(&self) -> bool {
        self.devices.iter().any(|device| device != "cpu")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::frame::{Filter, Fit};
    use crate::model::labels::Label;
    use crate::model::threshold::Threshold;

    #[test]
    fn a_threshold_of_no_category_is_refused_with_the_nearest_one() {
        let labels = [("wolf", "species"), ("solo", GENERAL), ("safe", RATING)]
            .map(|(name, category)| Label { name: name.into(), category: category.into() });
        let model = LoadedModel {
            id: ModelId { name: "m".into(), sha256: String::new() },
            frame: Frame { side: 1, fit: Fit::Stretch, filter: Filter::Bicubic },
            labels: Labels::new(labels.into()),
            thresholds: Thresholds::default(),
            devices: Vec::new(),
        };
        let check =
            |category: &str| model.check_thresholds(&Thresholds::default().with(category, Some(Threshold::MCut)));
        for fine in [GENERAL, CHARACTER, "species"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        let refused = check("genral").expect_err("no category");
        assert_eq!(refused.code, Code::BadJob);
        let named =
            "field `thresholds.genral` is unknown; did you mean `general`? known are `general`, `character`, `species`";
        assert!(refused.message.contains(named), "{refused}");
        assert!(check(RATING).is_err(), "ratings have none");
    }
}
