//! Medians and spreads.

/// Returns the value below which `share` of all values lie, by rank, or 0 if there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = (share * (sorted.len().saturating_sub(1)) as f64).round() as usize;
    sorted.get(rank).copied().unwrap_or(0.0)
}

/// The median of some values, and the limits of their middle half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        Self { median: quantile(values, 0.5), low: quantile(values, 0.25), high: quantile(values, 0.75) }
    }

    /// Returns the spread of the ratios of values that were measured in the same round.
    pub(crate) fn of_ratios(values: &[f64], against: &[f64]) -> Self {
        let ratios: Vec<f64> = values.iter().zip(against).map(|(value, against)| value / against).collect();
        Self::of(&ratios)
    }

    /// Formats the spread as `0.97 (0.94–0.99)`.
    pub(crate) fn text(self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}
