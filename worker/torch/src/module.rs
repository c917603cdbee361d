use std::rc::Rc;
use std::sync::Once;

use gristmill_engine::{
    DeviceMemory, Engine, HostTensor, Inputs, Load, LoadError, ModelFile, ModelFormat, OutputSpec, RunError, Staged,
};
use tch::{CModule, Device, IValue, TchError, Tensor};

use crate::accelerator::{empty_cache, memory};
use crate::device::{DeviceError, DeviceSetting};
use crate::failure::run_error;
use crate::place::Place;
use crate::text::essence;
use crate::value::{host_tensor, outputs, written};

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
            // First, so that the parameters are copied in the order of what will use them.
            let place = Place::try_new(self.device)?;
            let mut code = CModule::load_on_device(&model.path, self.device)?;
            code.f_set_eval()?;
            Ok(Module { code, place, outputs: model.signature.outputs.clone() })
        };
        let module = load().map_err(|e: TchError| LoadError(format!("{}: {}", model.path.display(), essence(&e))))?;
        Ok(Box::new(Loaded(Rc::new(module))))
    }

    fn device(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".into(),
        }
    }
}

/// One TorchScript module.
pub(crate) struct Module {
    pub(crate) code: CModule,
    pub(crate) place: Place,
    pub(crate) outputs: Vec<OutputSpec>,
}

impl Module {
    fn error(&self, error: &TchError) -> RunError {
        run_error(error, self.place.device())
    }
}

/// A module as an engine.
pub(crate) struct Loaded(pub(crate) Rc<Module>);

impl Engine for Loaded {
    fn stage(&mut self, inputs: &dyn Inputs) -> Result<Box<dyn Staged>, RunError> {
        let module = Rc::clone(&self.0);
        let staged = |at| module.place.upload(written(inputs, at, &module.place)?);
        let inputs: Result<Vec<Tensor>, TchError> = (0..inputs.count()).map(staged).collect();
        let inputs = inputs.map_err(|error| module.error(&error))?;
        Ok(Box::new(Fed { module, inputs }))
    }

    fn reclaim(&mut self) {
        empty_cache(self.0.place.device());
    }

    fn memory(&self) -> Option<DeviceMemory> {
        match self.0.place.device() {
            Device::Cuda(index) => memory(index),
            _ => None,
        }
    }
}

/// A module and the inputs of one run.
struct Fed {
    module: Rc<Module>,
    inputs: Vec<Tensor>,
}

impl Staged for Fed {
    fn run(self: Box<Self>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError> {
        let Self { module, inputs } = *self;
        let _no_grad = tch::no_grad_guard();
        let inputs: Vec<IValue> = inputs.into_iter().map(IValue::Tensor).collect();
        let value = module.code.forward_is(&inputs).map_err(|error| module.error(&error))?;
        let outputs = outputs(value, &module.outputs)?;
        let outputs = module.place.download(outputs, meanwhile).map_err(|error| module.error(&error))?;
        outputs.iter().map(host_tensor).collect()
    }
}
