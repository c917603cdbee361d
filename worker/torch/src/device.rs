use std::fmt;
use std::str::FromStr;

use crate::cuda::open_cuda;

/// Which device models run on, as an operator writes it: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSetting {
    /// The first CUDA device where there is one, else the CPU.
    Auto,
    /// The CPU; no CUDA library is opened.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

/// A text that names no device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, cpu, cuda, cuda:N")]
pub struct InvalidDevice(String);

/// A CUDA device was asked for and is not there.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No CUDA at all.
    #[error("device cuda:{index}: {reason}")]
    NoCuda {
        /// Asked for.
        index: usize,
        /// What the linker or driver said.
        reason: String,
    },
    /// CUDA, but fewer devices.
    #[error("device cuda:{index}: only {count} CUDA devices are visible, numbered from 0")]
    NoSuchDevice {
        /// Asked for.
        index: usize,
        /// There are.
        count: usize,
    },
}

impl FromStr for DeviceSetting {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        let invalid = || InvalidDevice(text.chars().take(40).collect());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(invalid)?;
                index.parse().map(Self::Cuda).map_err(|_| invalid())
            }
        }
    }
}

impl fmt::Display for DeviceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceSetting {
    /// Finds the device, opening the CUDA libraries if one may be used. `auto` logs what it decided and why.
    pub(crate) fn resolve(self) -> Result<tch::Device, DeviceError> {
        match self {
            Self::Cpu => Ok(tch::Device::Cpu),
            Self::Auto => match open_cuda() {
                Ok(count) => {
                    tracing::info!(device = "cuda:0", cuda_devices = count, "device auto: using CUDA");
                    Ok(tch::Device::Cuda(0))
                }
                Err(reason) => {
                    tracing::info!(device = "cpu", reason, "device auto: using the CPU");
                    Ok(tch::Device::Cpu)
                }
            },
            Self::Cuda(index) => match open_cuda() {
                Ok(count) if index < count => Ok(tch::Device::Cuda(index)),
                Ok(count) => Err(DeviceError::NoSuchDevice { index, count }),
                Err(reason) => Err(DeviceError::NoCuda { index, reason }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_operators_write_it() {
        assert_eq!("auto".parse(), Ok(DeviceSetting::Auto));
        assert_eq!("cuda".parse(), Ok(DeviceSetting::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceSetting::Cuda(3)));
        for bad in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(bad.parse::<DeviceSetting>().is_err(), "{bad}");
        }
    }
}
