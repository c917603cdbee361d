use std::sync::Once;

use gristmill_engine::{Engine, HostTensor, Inputs, Load, LoadError, ModelFile, ModelFormat, OutputSpec, RunError};
use tch::{CModule, Device, IValue, TchError, Tensor};

use crate::accelerator::empty_cache;
use crate::device::{DeviceError, DeviceSetting};
use crate::failure::run_error;
use crate::text::essence;
use crate::value::{outputs, to_host, written};

/// Loads TorchScript modules onto one device.
pub struct TorchLoader {
    device: Device,
    threads: usize,
}

impl TorchLoader {
    /// Finds the device. `threads` is the number of threads one operator may use on the CPU, per instance.
    pub fn try_new(setting: DeviceSetting, threads: usize) -> Result<Self, DeviceError> {
        let device = setting.resolve()?;
        // Between operators we run nothing in parallel: an idle pool would only spin. libtorch takes this number once.
        static INTER_OP: Once = Once::new();
        INTER_OP.call_once(|| tch::set_num_interop_threads(1));
        Ok(Self { device, threads })
    }
}

impl Load for TorchLoader {
    fn load(&self, model: &ModelFile) -> Result<Box<dyn Engine>, LoadError> {
        if model.format == ModelFormat::Aoti {
            let text = "format \"aoti\" is not supported yet; export the model as \"torchscript\"";
            return Err(LoadError(text.into()));
        }
        // OpenMP keeps this number per thread, so it is set on the thread that will run the model.
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
        let load = || {
            let mut module = CModule::load_on_device(&model.path, self.device)?;
            module.f_set_eval()?;
            Ok(module)
        };
        let module = load().map_err(|e: TchError| LoadError(format!("{}: {}", model.path.display(), essence(&e))))?;
        Ok(Box::new(Module { module, device: self.device, outputs: model.signature.outputs.clone() }))
    }

    fn device(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".into(),
        }
    }
}

/// One TorchScript module.
struct Module {
    module: CModule,
    device: Device,
    outputs: Vec<OutputSpec>,
}

impl Engine for Module {
    fn run(&mut self, inputs: &dyn Inputs) -> Result<Vec<HostTensor>, RunError> {
        let _no_grad = tch::no_grad_guard();
        let forward = || {
            // All are written before the first is moved: writing is told from running by the last one written.
            let inputs: Vec<Tensor> = (0..inputs.count()).map(|at| written(inputs, at)).collect::<Result<_, _>>()?;
            let moved =
                |input: Tensor| if self.device == Device::Cpu { Ok(input) } else { input.f_to_device(self.device) };
            let inputs = inputs.into_iter().map(|input| moved(input).map(IValue::Tensor));
            let inputs: Vec<IValue> = inputs.collect::<Result<_, _>>()?;
            self.module.forward_is(&inputs)
        };
        let value = forward().map_err(|error| run_error(&error, self.device))?;
        outputs(value, &self.outputs)?.into_iter().map(|tensor| to_host(tensor, self.device)).collect()
    }

    fn reclaim(&mut self) {
        empty_cache(self.device);
    }
}
