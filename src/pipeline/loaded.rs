//! A model that is loaded, as the stages know it.

use crate::failure::{Code, Failure};
use crate::json;
use crate::model::category::{CHARACTER, GENERAL, RATING};
use crate::model::frame::Frame;
use crate::model::labels::Labels;
use crate::model::threshold::Thresholds;
use crate::tags::ModelId;

/// Everything about a loaded model but the sessions that run it.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    /// Its name and hash, as answers have them.
    pub(crate) id: ModelId,
    /// The square it takes.
    pub(crate) frame: Frame,
    /// The meaning of its output.
    pub(crate) labels: Labels,
    /// Thresholds of jobs that set none: the operator's, else the model's own.
    pub(crate) thresholds: Thresholds,
    /// The devices it runs on, one per session.
    pub(crate) devices: Vec<String>,
}

impl LoadedModel {
    /// Refuses thresholds that would have no effect: of a category that no label has, or of ratings, which are reported
    /// whole. Those of general tags and characters are everybody's.
    ///
    /// # Errors
    /// `bad_job`, naming the category and the nearest that there is.
    pub(crate) fn check_thresholds(&self, thresholds: &Thresholds) -> Result<(), Failure> {
        let refused =
            |unknown| Failure::new(Code::BadJob, format!("not a job for the model `{}`: {unknown}", self.id.name));
        self.without_effect(thresholds).map_or(Ok(()), |unknown| Err(refused(unknown)))
    }

    /// The first of these thresholds that would have no effect, and the nearest that would, if there is one.
    pub(crate) fn without_effect(&self, thresholds: &Thresholds) -> Option<String> {
        let is_own = |category: &str| self.labels.categories().any(|(name, _)| name == category);
        let has_effect = |name: &str| name == GENERAL || name == CHARACTER || (name != RATING && is_own(name));
        let wrong = thresholds.categories().find(|name| !has_effect(name))?;
        let others = self.labels.categories().map(|(name, _)| name);
        let others = others.filter(|name| ![GENERAL, CHARACTER, RATING].contains(name));
        let known: Vec<_> = [GENERAL, CHARACTER].into_iter().chain(others).collect();
        Some(json::unknown_field(&format!("thresholds.{wrong}"), &known))
    }

    /// Its devices, joined with commas.
    #[must_use]
    pub(crate) fn device(&self) -> String {
        self.devices.join(",")
    }

    /// Whether one of its devices prefetches: it copies the next batch while one runs. The CPU has nothing to copy, and an
    /// interactive row can still join a batch that is closed later.
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
