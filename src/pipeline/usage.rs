//! Usage: the CPU time and memory that the processes of a run use at one moment, and the samples that are kept.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;

/// A share of one processor's time, in tenths of a percent: two busy processors are 200 %. In JSON, a number with at most
/// one decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuPercent(u32);

impl CpuPercent {
    /// Returns the share that `used_ms` of CPU time is of `within_ms`; 0 if `within_ms` is 0.
    pub fn of(used_ms: u64, within_ms: u64) -> Self {
        let tenths = u128::from(used_ms) * 1000 / u128::from(within_ms.max(1));
        Self(if within_ms == 0 { 0 } else { u32::try_from(tenths).unwrap_or(u32::MAX) })
    }

    /// Returns tenths of a percent.
    pub const fn tenths(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, tenth) => write!(f, "{whole}.{tenth}"),
        }
    }
}

impl Serialize for CpuPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(10) {
            serializer.serialize_u32(self.0 / 10)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 10.0)
        }
    }
}

impl<'de> Deserialize<'de> for CpuPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = serde_json::Number::deserialize(deserializer)?.to_string();
        let (whole, tenth) = text.split_once('.').unwrap_or((&text, "0"));
        let tenths = |whole: u32, tenth: u32| whole.checked_mul(10)?.checked_add(tenth);
        let parsed = whole.parse().ok().zip(tenth.parse().ok().filter(|tenth| *tenth < 10));
        let tenths = parsed.and_then(|(whole, tenth)| tenths(whole, tenth));
        tenths.map(Self).ok_or_else(|| serde::de::Error::custom("not a CPU percentage with at most one decimal"))
    }
}

/// The resources that the processes of a run use at one moment. In JSON, the `usage` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was measured.
    pub at: Timestamp,
    /// The CPU time used since the previous measurement, excluding pauses.
    pub cpu_percent: CpuPercent,
    /// The memory in use.
    pub memory_bytes: u64,
    /// The number of processes.
    pub processes: u32,
}

/// A sample: one measurement that is kept with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// Milliseconds since the run was started.
    pub at_ms: u64,
    /// How many of these milliseconds the run was paused.
    pub paused_ms: u32,
    /// The CPU time that the run had used by then, in milliseconds.
    pub cpu_ms: u64,
    /// The memory that its processes had.
    pub memory_bytes: u64,
    /// The number of its processes.
    pub processes: u32,
}

impl UsageSample {
    /// The sample with which every run begins.
    pub const START: Self = Self { at_ms: 0, paused_ms: 0, cpu_ms: 0, memory_bytes: 0, processes: 0 };

    /// Returns the share of a processor that the run used since an earlier sample, excluding pauses.
    pub fn cpu_since(&self, before: &Self) -> CpuPercent {
        let paused_ms = u64::from(self.paused_ms.saturating_sub(before.paused_ms));
        let ran_ms = self.at_ms.saturating_sub(before.at_ms).saturating_sub(paused_ms);
        CpuPercent::of(self.cpu_ms.saturating_sub(before.cpu_ms), ran_ms)
    }

    /// Halves the number of samples. Of each pair it keeps the later sample, with the larger memory of the two, so that no
    /// peak is lost.
    pub fn halved(samples: &[Self]) -> Vec<Self> {
        samples
            .chunks_exact(2)
            .map(|pair| Self { memory_bytes: pair[0].memory_bytes.max(pair[1].memory_bytes), ..pair[1] })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_percent_is_a_number_with_one_decimal() {
        for (used, within, text) in
            [(0, 0, "0"), (5, 0, "0"), (500, 1000, "50"), (1, 3, "33.3"), (4000, 1000, "400"), (7, 10_000, "0")]
        {
            let share = CpuPercent::of(used, within);
            assert_eq!((share.to_string().as_str(), serde_json::to_string(&share).expect("a number").as_str()), (text, text));
            assert_eq!(serde_json::from_str::<CpuPercent>(text).expect("ours"), share);
        }
        assert_eq!(CpuPercent::of(u64::MAX, 1).tenths(), u32::MAX);
        for text in ["-1", "1.25", "1e9", "4294967295", "\"5\"", "null"] {
            assert!(serde_json::from_str::<CpuPercent>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_share_excludes_pauses_and_halving_keeps_peak() {
        let sample =
            |at_ms, paused_ms, cpu_ms, memory_bytes| UsageSample { at_ms, paused_ms, cpu_ms, memory_bytes, processes: 1 };
        let samples = [sample(10, 0, 5, 1), sample(20, 0, 15, 9), sample(1_030, 1_000, 25, 8), sample(1_040, 1_000, 25, 2)];
        let shares = |samples: &[UsageSample]| {
            let before = std::iter::once(&UsageSample::START).chain(samples);
            samples.iter().zip(before).map(|(sample, before)| sample.cpu_since(before).tenths()).collect::<Vec<_>>()
        };
        assert_eq!(shares(&samples), [500, 1000, 1000, 0]);
        let halved = UsageSample::halved(&samples);
        assert_eq!(halved, [sample(20, 0, 15, 9), sample(1_040, 1_000, 25, 8)]);
        assert_eq!(shares(&halved), [750, 500]);
    }
}
