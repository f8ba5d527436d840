//! A device for which steps are planned, and that runs none.

use std::sync::Arc;
use wholestep::Device;
use wholestep_compiler::backend::{Backend, DeviceError, Executable, Unrun};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::plan::{Layout, Plan};

struct Planner(Caps);

impl Backend for Planner {
    fn caps(&self) -> Caps {
        self.0.clone()
    }

    fn load(&self, plan: &Plan, _layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(Unrun::new(plan)))
    }
}

pub fn planner(name: &'static str, caps: Caps) -> Device {
    Device::with_backend(name, Arc::new(Planner(caps)))
}
