//! TorchScript modules. See `code.cpp`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;

use tch::{Device, TchError, Tensor};

use crate::said::{done, tensor};

unsafe extern "C" {
    fn gristmill_code_load(path: *const c_char, index: c_int, out: *mut *mut c_void) -> *const c_char;
    fn gristmill_code_free(module: *mut c_void);
    fn gristmill_code_forward(
        module: *mut c_void,
        inputs: *const *const c_void,
        inputs_count: usize,
        names: *const *const c_char,
        names_count: usize,
        out: *mut *mut c_void,
    ) -> *const c_char;
    fn gristmill_outputs_count(outputs: *const c_void) -> usize;
    fn gristmill_outputs_take(outputs: *mut c_void, index: usize, out: *mut *mut c_void) -> *const c_char;
    fn gristmill_outputs_free(outputs: *mut c_void);
    fn gristmill_forks(path: *const c_char) -> bool;
}

/// A module that was loaded. Not [`Send`]: its tensors are of one thread.
pub(crate) struct Code {
    module: *mut c_void,
    /// Keys of its outputs, where it returns a dict.
    names: Vec<CString>,
}

impl Code {
    /// Loads a file onto a device. `names` are those of the manifest's outputs.
    pub(crate) fn load<'a>(
        path: &Path,
        device: Device,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, TchError> {
        let index = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
            _ => -1,
        };
        let names = names.map(CString::new).collect::<Result<_, _>>()?;
        let (path, mut module) = (c_path(path)?, null_mut());
        // SAFETY: a path that ends in NUL, and a place for what is made.
        done(unsafe { gristmill_code_load(path.as_ptr(), index, &raw mut module) })?;
        Ok(Self { module, names })
    }

    /// Runs it, without gradients. Outputs come in the order of the names, or in its own where it names none.
    pub(crate) fn forward(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        let inputs: Vec<*const c_void> = inputs.iter().map(|input| input.as_ptr().cast()).collect();
        let names: Vec<*const c_char> = self.names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs = Outputs(null_mut());
        let out = &raw mut outputs.0;
        // SAFETY: a module that lives, so many tensors that live and names that end in NUL, and a place for what is made.
        done(unsafe {
            gristmill_code_forward(self.module, inputs.as_ptr(), inputs.len(), names.as_ptr(), names.len(), out)
        })?;
        // SAFETY: outputs that were made.
        let count = unsafe { gristmill_outputs_count(outputs.0) };
        // SAFETY: as above, and a place for what is made.
        (0..count).map(|at| tensor(|out| unsafe { gristmill_outputs_take(outputs.0, at, out) })).collect()
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: made by `gristmill_code_load`, and freed once.
        unsafe { gristmill_code_free(self.module) };
    }
}

/// What a run made, or nothing.
struct Outputs(*mut c_void);

impl Drop for Outputs {
    fn drop(&mut self) {
        // SAFETY: made by `gristmill_code_forward` and freed once, or null, which is freed by doing nothing.
        unsafe { gristmill_outputs_free(self.0) };
    }
}

/// Whether a module has other threads do a part of its work (`torch.jit.fork`). A file that cannot be read is said to.
pub(crate) fn forks(path: &Path) -> bool {
    // SAFETY: takes a path that ends in NUL, throws nothing.
    c_path(path).map_or(true, |path| unsafe { gristmill_forks(path.as_ptr()) })
}

fn c_path(path: &Path) -> Result<CString, TchError> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::essence;

    /// What a module of `fixtures/` makes of a 1 and a 2, where the manifest names `a` and `b`.
    fn outputs(fixture: &str) -> Result<Vec<Vec<f32>>, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let code = Code::load(&path, Device::Cpu, ["a", "b"].into_iter()).unwrap();
        let outputs = code.forward(&[Tensor::from_slice(&[1.0f32, 2.0])]).map_err(|error| essence(&error))?;
        Ok(outputs.into_iter().map(|output| Vec::try_from(output).unwrap()).collect())
    }

    #[test]
    fn outputs_are_a_tensor_a_list_or_a_dict_of_them() {
        let (once, twice) = (vec![1.0, 2.0], vec![2.0, 4.0]);
        assert_eq!(outputs("forks.pt"), Ok(vec![twice.clone()]));
        assert_eq!(outputs("lists.pt"), Ok(vec![once.clone(), twice.clone()]));
        assert_eq!(outputs("keys.pt"), Ok(vec![once, twice]), "in the order of the manifest");
    }

    #[test]
    fn other_outputs_are_refused() {
        let error = |fixture| outputs(fixture).unwrap_err();
        assert_eq!(error("number.pt"), "the model returned Int, not a tensor, tuple or dict of tensors");
        assert_eq!(error("mixed.pt"), "the model returned Int where a tensor was expected");
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys.pt");
        let code = Code::load(&path, Device::Cpu, ["a", "c"].into_iter()).unwrap();
        let error = code.forward(&[Tensor::from_slice(&[1.0f32])]).unwrap_err();
        assert_eq!(essence(&error), "the model's dict has no key \"c\", which the manifest names");
    }
}
