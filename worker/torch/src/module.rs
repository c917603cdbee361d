use std::rc::Rc;
use std::sync::Once;

use gristmill_engine::{
    DeviceMemory, Engine, HostTensor, Inputs, Load, LoadError, ModelFile, ModelFormat, RunError, Staged,
};
use tch::{Device, TchError};

use crate::code::Code;
use crate::device::{DeviceError, DeviceSetting};
use crate::place::{Place, Ready};
use crate::text::essence;

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
            let place = Place::try_new(self.device, &model.path)?;
            let names = model.signature.outputs.iter().map(|output| output.name.as_str());
            Ok(Module { code: Code::load(&model.path, self.device, names)?, place })
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
    pub(crate) code: Code,
    pub(crate) place: Place,
}

/// A module as an engine.
pub(crate) struct Loaded(pub(crate) Rc<Module>);

impl Engine for Loaded {
    fn stage(&mut self, inputs: &dyn Inputs) -> Result<Box<dyn Staged>, RunError> {
        let module = Rc::clone(&self.0);
        let ready = module.place.load(inputs).map_err(|error| module.place.error(&error))?;
        Ok(Box::new(Fed { module, ready }))
    }

    fn reclaim(&mut self) {
        self.0.place.reclaim();
    }

    fn memory(&self) -> Option<DeviceMemory> {
        self.0.place.memory()
    }
}

/// A module and the inputs of one run.
struct Fed {
    module: Rc<Module>,
    ready: Ready,
}

impl Staged for Fed {
    fn run(self: Box<Self>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError> {
        let Self { module, ready } = *self;
        let outputs = ready.begin().and_then(|()| module.code.forward(ready.inputs()));
        ready.fetch(outputs.map_err(|error| module.place.error(&error))?, meanwhile)
    }
}
