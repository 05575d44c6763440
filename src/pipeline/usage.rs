//! Usage: how much CPU time and memory the processes of a run take at one moment, and what part of it is kept.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;

/// A share of one processor's time, in tenths of a percent: two busy processors are 200 %. As JSON a number with at most one decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuPercent(u32);

impl CpuPercent {
    /// The share that `used_ms` of CPU time are of `within_ms`; 0 of no time.
    pub fn of(used_ms: u64, within_ms: u64) -> Self {
        let tenths = u128::from(used_ms) * 1000 / u128::from(within_ms.max(1));
        Self(if within_ms == 0 { 0 } else { u32::try_from(tenths).unwrap_or(u32::MAX) })
    }

    /// Tenths of a percent.
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
        tenths.map(Self).ok_or_else(|| serde::de::Error::custom("no share of a processor with one decimal"))
    }
}

/// What the processes of a run use at one moment. As JSON it is the `usage` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was looked at.
    pub at: Timestamp,
    /// The CPU time that they took since the look before, pauses left out.
    pub cpu_percent: CpuPercent,
    /// The memory that they have.
    pub memory_bytes: u64,
    /// How many they are.
    pub processes: u32,
}

/// One look of many, as it is kept with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// Milliseconds since the run began to run.
    pub at_ms: u64,
    /// How many of these it was paused.
    pub paused_ms: u32,
    /// The CPU time that the run had taken by then, in milliseconds.
    pub cpu_ms: u64,
    /// The memory that its processes had.
    pub memory_bytes: u64,
    /// How many they were.
    pub processes: u32,
}

impl UsageSample {
    /// Where every run begins.
    pub const START: Self = Self { at_ms: 0, paused_ms: 0, cpu_ms: 0, memory_bytes: 0, processes: 0 };

    /// The share of a processor that the run took since an earlier sample, pauses left out.
    pub fn cpu_since(&self, before: &Self) -> CpuPercent {
        let paused_ms = u64::from(self.paused_ms.saturating_sub(before.paused_ms));
        let ran_ms = self.at_ms.saturating_sub(before.at_ms).saturating_sub(paused_ms);
        CpuPercent::of(self.cpu_ms.saturating_sub(before.cpu_ms), ran_ms)
    }

    /// Every second sample: of two neighbours the later one, with the larger memory of both, so that no peak is lost.
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
    fn share_of_a_processor_is_a_number_with_one_decimal() {
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
    fn pauses_do_not_count_and_halving_keeps_the_time_and_the_peak() {
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
