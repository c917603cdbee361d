//! A device's streams, as one thread uses them. See `streams.cpp`.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use tch::{Device, Kind, TchError, Tensor};

use crate::said::{done, tensor};

unsafe extern "C" {
    fn gristmill_streams(index: c_int, is_own: bool, out: *mut *const c_void) -> *const c_char;
    fn gristmill_buffer(bytes: usize, out: *mut *mut c_void) -> *const c_char;
    fn gristmill_upload(
        streams: *const c_void,
        buffer: *const c_void,
        like: *const c_void,
        shape: *const i64,
        dims: usize,
        out: *mut *mut c_void,
    ) -> *const c_char;
    fn gristmill_output(
        streams: *const c_void,
        tensor: *const c_void,
        out: *mut *mut c_void,
        bytes: *mut usize,
    ) -> *const c_char;
    fn gristmill_download(streams: *const c_void, output: *const c_void, buffer: *const c_void) -> *const c_char;
    fn gristmill_event(streams: *const c_void, is_copy: bool, out: *mut *mut c_void) -> *const c_char;
    fn gristmill_event_free(event: *mut c_void);
    fn gristmill_event_wait(event: *const c_void) -> *const c_char;
    fn gristmill_begin(streams: *const c_void, event: *const c_void) -> *const c_char;
    fn gristmill_end(streams: *const c_void) -> *const c_char;
    fn gristmill_release(streams: *const c_void, input: *const c_void) -> *const c_char;
    fn gristmill_settle(streams: *const c_void) -> *const c_char;
}

/// Two streams of a device: what runs, and what is copied to the device meanwhile. Not [`Send`]: they are the present thread's,
/// and live as long.
pub(crate) struct Streams(*const c_void);

impl Streams {
    /// Of the accelerator of this index. The thread's work goes to the first of them from then on; `is_own` is whether no other
    /// thread's does.
    pub(crate) fn try_new(index: usize, is_own: bool) -> Result<Self, TchError> {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let mut out = null();
        // SAFETY: `out` is ours to be written to.
        done(unsafe { gristmill_streams(index, is_own, &raw mut out) })?;
        Ok(Self(out))
    }

    /// Host memory that the device reads and writes by itself, without the processor's help.
    pub(crate) fn buffer(&self, bytes: usize) -> Result<Tensor, TchError> {
        // SAFETY: `out` is ours to be written to.
        tensor(|out| unsafe { gristmill_buffer(bytes, out) })
    }

    /// Begins to copy a buffer to the device. The buffer has to live and stay as it is until that is done.
    pub(crate) fn upload(&self, buffer: &Tensor, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
        // The way to say what elements are, since tch keeps its numbers for them to itself.
        let like = Tensor::f_empty([0], (kind, Device::Cpu))?;
        let (buffer, like, dims) = (buffer.as_ptr().cast(), like.as_ptr().cast(), shape.len());
        // SAFETY: streams and tensors that live, a shape of so many dimensions, and a place for what is made.
        tensor(|out| unsafe { gristmill_upload(self.0, buffer, like, shape.as_ptr(), dims, out) })
    }

    /// An output as the elements behind each other, and how many bytes of it are to be downloaded: none where it is in the
    /// host's memory.
    pub(crate) fn output(&self, output: &Tensor) -> Result<(Tensor, usize), TchError> {
        let mut bytes = 0;
        // SAFETY: streams and a tensor that live, and two places of ours.
        let output = tensor(|out| unsafe { gristmill_output(self.0, output.as_ptr().cast(), out, &raw mut bytes) })?;
        Ok((output, bytes))
    }

    /// Begins to copy an output to a buffer, after what runs now. Both have to live until that is done.
    pub(crate) fn download(&self, output: &Tensor, buffer: &Tensor) -> Result<(), TchError> {
        // SAFETY: streams and tensors that live; the buffer has room for the output.
        done(unsafe { gristmill_download(self.0, output.as_ptr().cast(), buffer.as_ptr().cast()) })
    }

    /// When all uploads are done that were begun.
    pub(crate) fn uploaded(&self) -> Result<Event, TchError> {
        self.event(true)
    }

    /// When all is done that was begun otherwise.
    pub(crate) fn ran(&self) -> Result<Event, TchError> {
        self.event(false)
    }

    fn event(&self, is_copy: bool) -> Result<Event, TchError> {
        let mut out = null_mut();
        // SAFETY: streams that live, and a place for what is made.
        done(unsafe { gristmill_event(self.0, is_copy, &raw mut out) })?;
        Ok(Event(out))
    }

    /// A run begins, on the device not before a moment.
    pub(crate) fn begin(&self, moment: &Event) -> Result<(), TchError> {
        // SAFETY: streams and an event that live.
        done(unsafe { gristmill_begin(self.0, moment.0) })
    }

    /// The run is given to the device, all of it.
    pub(crate) fn end(&self) -> Result<(), TchError> {
        // SAFETY: streams that live.
        done(unsafe { gristmill_end(self.0) })
    }

    /// Lets go of an input after its run.
    pub(crate) fn release(&self, input: Tensor) -> Result<(), TchError> {
        // SAFETY: streams and a tensor that live.
        done(unsafe { gristmill_release(self.0, input.as_ptr().cast()) })
    }

    /// Waits for all that was begun.
    pub(crate) fn settle(&self) -> Result<(), TchError> {
        // SAFETY: streams that live.
        done(unsafe { gristmill_settle(self.0) })
    }
}

/// A moment in a stream.
pub(crate) struct Event(*mut c_void);

impl Event {
    /// Waits for it. Errors of what was done until then show here.
    pub(crate) fn wait(&self) -> Result<(), TchError> {
        // SAFETY: an event that lives.
        done(unsafe { gristmill_event_wait(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `gristmill_event`, and freed once.
        unsafe { gristmill_event_free(self.0) };
    }
}
