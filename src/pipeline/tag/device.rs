//! Device that a model is to run on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::machine::gpu;

/// Device as in `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Device {
    /// A GPU if one is usable, otherwise the CPU; the choice is logged.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU through CUDA, by number.
    Cuda(i32),
    /// An NVIDIA GPU through TensorRT, by number.
    TensorRt(i32),
}

impl Device {
    /// Number of a GPU.
    #[must_use]
    pub(crate) const fn number(self) -> Option<i32> {
        match self {
            Self::Cuda(number) | Self::TensorRt(number) => Some(number),
            Self::Auto | Self::Cpu => None,
        }
    }

    /// Returns `true` if it is a GPU, or `auto` on a machine with one.
    #[must_use]
    pub(crate) fn may_be_a_gpu(self) -> bool {
        match self {
            Self::Auto => gpu::count().is_some_and(|count| count > 0),
            Self::Cpu => false,
            Self::Cuda(_) | Self::TensorRt(_) => true,
        }
    }

    /// Time limit for loading a model on it, after which it counts as hung; `None` on the CPU, which cannot hang. Does not
    /// query the driver, because that may be the part that hangs.
    #[must_use]
    pub(crate) const fn load_timeout(self) -> Option<Duration> {
        match self {
            Self::Cpu => None,
            Self::Auto | Self::Cuda(_) => Some(LOAD_TIMEOUTS.0),
            Self::TensorRt(_) => Some(LOAD_TIMEOUTS.1),
        }
    }
}

/// Time limits for loading and warming up a model, for CUDA and TensorRT. CUDA is ready within a minute or two; TensorRT
/// builds engines for up to half an hour.
const LOAD_TIMEOUTS: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(2));

/// Error for an invalid device.
#[derive(Debug, thiserror::Error)]
#[error("use auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N")]
pub(crate) struct InvalidDevice;

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        let text = text.trim();
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (text, None),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = match number {
            Some(number) if digits(number) => Some(number.parse().map_err(|_| InvalidDevice)?),
            Some(_) => return Err(InvalidDevice),
            None => None,
        };
        match (kind, number) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", number) => Ok(Self::Cuda(number.unwrap_or(0))),
            ("tensorrt", number) => Ok(Self::TensorRt(number.unwrap_or(0))),
            _ => Err(InvalidDevice),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::TensorRt(number) => write!(f, "tensorrt:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(3), Device::TensorRt(1)] {
            assert_eq!(device.to_string().parse::<Device>().expect("a device"), device);
        }
        assert_eq!("cuda".parse::<Device>().expect("a device"), Device::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cpu:0", "auto:1", "CUDA"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
