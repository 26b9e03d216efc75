//! What the model runs on: from the setting to a device that is there.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine;
use crate::settings::Device;

/// Where the model runs.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The processor, with our own loops.
    Cpu,
    /// A card, or the host device.
    Device(harmonium_cuda::Device),
}

impl Place {
    /// The place that a setting means on this machine. What was asked for by name and is not there is an error.
    pub(crate) fn of(device: Device) -> Result<Self> {
        let advice = "use cpu or auto, which work on every machine";
        match device {
            Device::Cpu => Ok(Self::Cpu),
            Device::Auto if !machine::has_nvidia_gpu() => Ok(Self::Cpu),
            Device::Auto => Ok(harmonium_cuda::Device::card(0).map_or(Self::Cpu, Self::Device)),
            Device::Cuda => harmonium_cuda::Device::card(0)
                .map(Self::Device)
                .with_context(|| format!("model.device = \"cuda\": {advice}")),
            Device::Host => harmonium_cuda::Device::host()
                .map(Self::Device)
                .with_context(|| format!("model.device = \"host\": {advice}")),
        }
    }

    /// The device, if it is not the processor itself.
    pub(crate) fn device(&self) -> Option<&harmonium_cuda::Device> {
        match self {
            Self::Cpu => None,
            Self::Device(device) => Some(device),
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> &str {
        self.device().map_or("cpu", harmonium_cuda::Device::name)
    }

    /// What a report of measurements says of it.
    pub(crate) fn facts(&self) -> Result<Value> {
        let card = self.device().and_then(harmonium_cuda::Device::info).map(|info| {
            json!({
                "driver_cuda": format!("{}.{}", info.driver_cuda / 1000, info.driver_cuda % 1000 / 10),
                "processors": info.num_processors,
                "l2_bytes": info.l2_bytes,
                "max_processor_mhz": info.processor_khz / 1000,
                "max_memory_mhz": info.memory_khz / 1000,
            })
        });
        let memory = self.device().map(harmonium_cuda::Device::memory).transpose()?;
        let memory = memory.map(|memory| memory.total);
        Ok(json!({"name": self.name(), "memory_bytes": memory, "card": card}))
    }

    /// Whether it shares the memory of this machine.
    pub(crate) fn is_host(&self) -> bool {
        self.device().is_none_or(harmonium_cuda::Device::is_host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_this_build_lacks_is_refused_with_what_works_instead() {
        assert!(Place::of(Device::Auto).is_ok());
        if !cfg!(feature = "cuda") {
            let message = format!("{:#}", Place::of(Device::Cuda).unwrap_err());
            assert!(message.contains("use cpu or auto") && message.contains("cuda"), "{message}");
        }
        assert_eq!(Place::of(Device::Host).is_ok(), cfg!(feature = "host-device"));
    }
}
